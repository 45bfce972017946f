"""GET /v1/billing/summaries/{tenantId}: how a tenant's usage stands, type by type."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from access.principals import Principal, require_tenant
from entitlements.bodies import valid_name
from entitlements.freshness import Freshness
from entitlements.models import SummaryAnswer, SummaryLine, SummaryPeriod, number, number_or_unlimited
from entitlements.problems import Problem
from entitlements.queries import statement
from entitlements.store import Store
from metering import periods
from metering.limits import NOTHING_GRANTED, ZERO, Limit, overage, remaining
from metering.periods import Period
from meterline_schemas.types import Micros

PAGE_DEFAULT = 100
PAGE_MAX = 1_000


def page_size(text: str | None) -> int:
    """Lines a page. Raises Problem 400."""
    if text is None:
        return PAGE_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= PAGE_MAX):
        raise Problem(400, "bad_page_size", f"limit is no page size; send 1 to {PAGE_MAX}.")
    return int(text)


class Summaries:
    """Reads them. Raises Problem, AccessRefused or StoreAway."""

    def __init__(self, store: Store, freshness: Freshness, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._freshness = freshness
        self._now = now
        self._tenant_sql = statement("tenant")
        self._summary_sql = statement("summary")

    async def of(self, tenant_id: str, principal: Principal, month_text: str | None, cursor: str, count: int) -> SummaryAnswer:
        """A page of `count` usage types after `cursor`; the running month when none is named."""
        valid_name("tenantId", tenant_id)
        if cursor:
            valid_name("cursor", cursor)
        require_tenant(principal, tenant_id)
        today = self._now().date()
        try:
            year, month_number = (today.year, today.month) if month_text is None else periods.parse_month(month_text)
        except ValueError:
            raise Problem(400, "bad_period", "period is no month; send it as 2026-10.") from None
        # Before the counters, which then hold at least what it says.
        as_of = self._freshness.as_of
        tenants = await self._store.rows("tenant", self._tenant_sql, {"tenant": tenant_id})
        if not tenants:
            raise Problem(404, "unknown_tenant", "There is no such tenant; check tenantId.")
        month = periods.month(date(year, month_number, 1))
        billing = periods.billing_period_starting_in(year, month_number, tenants[0][0])
        rows = await self._store.rows(
            "summary",
            self._summary_sql,
            {
                "tenant": tenant_id,
                "cursor": cursor,
                # One more than the page tells whether there is a next one.
                "count": count + 1,
                "month_start": month.start,
                "month_end": month.end,
                "billing_start": billing.start,
                "billing_end": billing.end,
                "today": today,
                "newest_day": _newest(month, today),
            },
        )
        lines = [_line(list(of_type), month, billing, today) for _, of_type in itertools.groupby(rows, key=lambda row: row[0])]
        more = len(lines) > count
        lines = lines[:count]
        return SummaryAnswer(
            tenant_id=tenant_id,
            period=f"{year:04d}-{month_number:02d}",
            as_of=as_of,
            usage=lines,
            next_cursor=lines[-1].usage_type if more else None,
        )


def _newest(month: Period, today: date) -> date:
    """The day that a daily limit's `remaining` speaks of."""
    return min(today, month.end - timedelta(days=1))


def _line(rows: Sequence[tuple[Any, ...]], month: Period, billing: Period, today: date) -> SummaryLine:
    """One usage type from its counted days."""
    usage_type, in_plan, limit_micros, hard, limit_period, held_micros, held_newest_micros = rows[0][:7]
    limit = Limit(None if limit_micros is None else Micros(int(limit_micros)), hard) if in_plan else NOTHING_GRANTED
    by_day = {day: Micros(int(micros)) for *_, day, micros in rows if micros is not None}
    used, reserved = Micros(sum(by_day.values())), Micros(int(held_micros or 0))
    if limit_period == "day":
        # A daily limit says nothing about a month's sum: each day is held against it.
        over = Micros(sum(overage(limit.quantity, of_day) for of_day in by_day.values()))
        newest = by_day.get(_newest(month, today).isoformat(), ZERO)
        left = remaining(limit.quantity, newest, Micros(int(held_newest_micros or 0)))
    else:
        over = overage(limit.quantity, used)
        left = remaining(limit.quantity, used, reserved)
    if limit_period == "lifetime":
        shown = SummaryPeriod(None, None)
    else:
        period = billing if limit_period == "billing_period" else month
        shown = SummaryPeriod(period.start.isoformat(), period.end.isoformat())
    return SummaryLine(
        usage_type=usage_type,
        used=number(used),
        reserved=number(reserved),
        limit=number_or_unlimited(limit.quantity),
        remaining=number_or_unlimited(left),
        overage=number(over),
        is_exceeded=over > 0,
        hard_stop=limit.hard,
        in_plan=in_plan,
        limit_period=limit_period,
        period=shown,
    )
