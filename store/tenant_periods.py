"""Which period of a tenant a person means by a month or a day, and what it bills."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

from psycopg import Connection

from metering.closing import billed
from metering.periods import Period, billing_period, billing_period_starting_in, parse_month

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class UnknownTenant(LookupError):
    """There is no such tenant."""


def tenant_period(connection: Connection[Any], tenant_id: str, text: str) -> Period:
    """The tenant's billing period that starts in a month ("2026-10"), or that a day lies in ("2026-10-15").

    What is closed counts as it was closed, also where the anchor day was moved since. Raises ValueError with what is wanted,
    UnknownTenant.
    """
    on = _day(text)
    year, number = (on.year, on.month) if on is not None else parse_month(text)
    row = connection.execute("SELECT anchor_day FROM tenants WHERE tenant_id = %s", (tenant_id,)).fetchone()
    if row is None:
        raise UnknownTenant(f"there is no tenant {tenant_id}")
    closes = [
        Period(start, end)
        for start, end in connection.execute(
            "SELECT period_start, period_end FROM period_closes WHERE tenant_id = %s AND state = 'closed' ORDER BY period_start",
            (tenant_id,),
        )
    ]
    if on is not None:
        found = [period for period in closes if period.holds(on)]
    else:
        found = [period for period in closes if (period.start.year, period.start.month) == (year, number)]
    if len(found) > 1:
        days = " and ".join(period.start.isoformat() for period in found)
        raise ValueError(f"several periods of {tenant_id} start in {text}, on {days}: name the day")
    if found:
        return found[0]
    period = billing_period(on, row[0]) if on is not None else billing_period_starting_in(year, number, row[0])
    # It begins where the last closed one ended; that differs where the anchor day was moved.
    if closes and period.start < closes[-1].end < period.end:
        return Period(closes[-1].end, period.end)
    return period


def _day(text: str) -> date | None:
    if _DAY.fullmatch(text) is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no day: write it as 2026-10-31") from None


def usage_of(connection: Connection[Any], tenant_id: str, period: Period) -> dict[str, Decimal]:
    """What a period bills by usage type: fixed once it is closed, until then what is counted of its days."""
    rows = connection.execute(
        "SELECT period_start = %(start)s, totals FROM period_closes WHERE tenant_id = %(tenant)s AND state = 'closed'"
        " AND (period_start = %(start)s OR period_end = %(start)s)",
        {"tenant": tenant_id, "start": period.start},
    ).fetchall()
    closed = {own: {usage_type: Decimal(text) for usage_type, text in totals.items()} for own, totals in rows}
    if True in closed:
        return billed(closed[True], closed.get(False, {}))
    return dict(
        connection.execute(
            "SELECT usage_type, sum(quantity) FROM usage_counters WHERE tenant_id = %s AND day >= %s AND day < %s"
            " GROUP BY usage_type HAVING sum(quantity) <> 0 ORDER BY usage_type",
            (tenant_id, period.start, period.end),
        ).fetchall()
    )
