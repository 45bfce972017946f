"""Closing periods: which one is due, and what it bills. Pure.

Cumulative totals are what makes a close exact: T(P) sums every admitted event with occurredAt < end(P) and a position below
V(P). Rows below V(P) never change, so T(P) can be summed again for ever; and

    billed(P) = T(P) - T(P - 1)

telescopes: over all closed periods it adds up to T of the last, whatever came late and whenever. What came late for an
earlier period is in the next one that closes, and is shown there as carried forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal

from metering.periods import Period, billing_period

Totals = Mapping[str, Decimal]
"""Usage type to the exact cumulative total."""

ZERO = Decimal(0)


def next_period(closed_until: date | None, first_day: date | None, anchor_day: int) -> Period | None:
    """The period to close next: it begins where the last closed one ended, the very first one holds the first counted day.

    None for a tenant that never used anything. Where the anchor day was moved the period is a short one: none is left out.
    """
    if closed_until is not None:
        return Period(closed_until, billing_period(closed_until, anchor_day).end)
    return None if first_day is None else billing_period(first_day, anchor_day)


def after_close(period: Period, closed_until: date | None) -> Period:
    """A period begins where the last closed one ended; that differs where a tenant's anchor day was moved."""
    if closed_until is not None and period.start < closed_until < period.end:
        return Period(closed_until, period.end)
    return period


def is_due(period: Period, as_of: datetime | None, grace: timedelta) -> bool:
    """Whether everything that was logged until the grace after the period's end is counted."""
    return as_of is not None and as_of >= period.ends_at + grace


def billed(totals: Totals, before: Totals) -> dict[str, Decimal]:
    """What a period bills, by usage type: the difference of two cumulative totals, in which zeros are left out."""
    found = {usage_type: totals.get(usage_type, ZERO) - before.get(usage_type, ZERO) for usage_type in {*totals, *before}}
    return {usage_type: quantity for usage_type, quantity in found.items() if quantity != 0}


def difference(billed_here: Totals, truth: Totals) -> str | None:
    """How the copied counters differ from ClickHouse's own sum; None when they agree to the last millionth."""
    found = [
        f"{usage_type}: clickhouse {truth.get(usage_type, ZERO):f}, counters {billed_here.get(usage_type, ZERO):f}"
        for usage_type in sorted({*billed_here, *truth})
        if billed_here.get(usage_type, ZERO) != truth.get(usage_type, ZERO)
    ]
    return "; ".join(found) or None
