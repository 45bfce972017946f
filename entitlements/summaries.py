"""GET /v1/billing/summaries/{tenantId}: how a tenant's usage stands, type by type."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

from access.principals import Principal, require_tenant
from entitlements.bodies import valid_name
from entitlements.freshness import Freshness
from entitlements.models import SummaryAnswer
from entitlements.problems import Problem
from entitlements.queries import statement
from entitlements.store import Store
from entitlements.summary_lines import Shown, summary_line
from metering import periods

PAGE_DEFAULT = 100
PAGE_MAX = 1_000


def page_size(text: str | None) -> int:
    """Lines a page. Raises Problem 400."""
    if text is None:
        return PAGE_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= PAGE_MAX):
        raise Problem(400, "bad_page_size", f"limit is no page size; send 1 to {PAGE_MAX}.")
    return int(text)


def shown(asked: str, today: date, anchor_day: int) -> Shown:
    """What `period` asks for: `current`, `previous`, or a month. Raises Problem 400.

    A month shows the billing period that starts in it, and all days of a daily limit.
    """
    if asked == "current":
        return Shown(periods.day(today), periods.month(today), periods.billing_period(today, anchor_day))
    if asked == "previous":
        month, billing = periods.month(today), periods.billing_period(today, anchor_day)
        return Shown(periods.day(today - timedelta(days=1)), periods.previous(month, 1), periods.previous(billing, anchor_day))
    try:
        year, number_of_month = periods.parse_month(asked)
    except ValueError:
        raise Problem(400, "bad_period", "period is none; send current, previous, or a month such as 2026-10.") from None
    month = periods.month(date(year, number_of_month, 1))
    return Shown(month, month, periods.billing_period_starting_in(year, number_of_month, anchor_day))


class Summaries:
    """Reads them. Raises Problem, AccessRefused or StoreAway."""

    def __init__(self, store: Store, freshness: Freshness, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._freshness = freshness
        self._now = now
        self._tenant_sql = statement("tenant")
        self._summary_sql = statement("summary")

    async def of(self, tenant_id: str, principal: Principal, period: str | None, cursor: str, count: int) -> SummaryAnswer:
        """A page of `count` usage types after `cursor`, of the `shown` days.

        It reads as many counters as the page has types times the days of a period, and where a tenant has grants those
        of their days.
        """
        valid_name("tenantId", tenant_id)
        if cursor:
            valid_name("cursor", cursor)
        require_tenant(principal, tenant_id)
        now = self._now()
        asked = "current" if period is None else period
        shown(asked, now.date(), 1)  # refuses before anything is read
        # Before the counters, which then hold at least what it says.
        as_of = self._freshness.as_of
        tenants = await self._store.rows("tenant", self._tenant_sql, {"tenant": tenant_id})
        if not tenants:
            raise Problem(404, "unknown_tenant", "There is no such tenant; check tenantId.")
        days = shown(asked, now.date(), tenants[0][0])
        rows = await self._store.rows(
            "summary",
            self._summary_sql,
            {
                "tenant": tenant_id,
                "cursor": cursor,
                # One more than the page tells whether there is a next one.
                "count": count + 1,
                "day_start": days.day.start,
                "day_end": days.day.end,
                "month_start": days.month.start,
                "month_end": days.month.end,
                "billing_start": days.billing_period.start,
                "billing_end": days.billing_period.end,
                "today": now.date(),
            },
        )
        until = now if as_of is None else datetime.fromisoformat(as_of)
        lines = [
            summary_line(list(of_type), days, now.date(), until) for _, of_type in itertools.groupby(rows, key=lambda row: row[0])
        ]
        more = len(lines) > count
        lines = lines[:count]
        return SummaryAnswer(
            tenant_id=tenant_id,
            period=f"{days.month.start:%Y-%m}",
            as_of=as_of,
            usage=lines,
            next_cursor=lines[-1].usage_type if more else None,
        )
