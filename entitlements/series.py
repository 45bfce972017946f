"""GET /v1/billing/usage/{tenantId}: what was used over time, and the events behind it, from ClickHouse.

Both are read from the admitted rows themselves. A cursor names the last line that was shown, in an order that the lines' own
contents make; so whatever arrives meanwhile, no line is shown twice and none that was there is left out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal, cast

import msgspec

from access.principals import Principal, require_tenant
from entitlements.bodies import valid_name
from entitlements.freshness import Freshness
from entitlements.models import EventLine, EventsAnswer, SeriesAnswer, SeriesLine, number
from entitlements.problems import Problem
from entitlements.queries import statement
from entitlements.store import Store
from entitlements.summaries import page_size
from entitlements.warehouse import Warehouse
from meterline_schemas.instants import format_instant

View = Literal["series", "events"]
Granularity = Literal["day", "hour"]

DAYS_MAX: Final[dict[str, int]] = {"day": 400, "hour": 35}
"""The longest range of each."""
CURSOR_BYTES_MAX: Final = 2_048
_CURSOR: Final = msgspec.json.Decoder(tuple[int, str, str, str])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for, once it is known to be right."""

    view: View
    granularity: Granularity
    start: date
    end: date
    usage_type: str
    """Empty: all."""
    after: tuple[int, str, str, str]
    """The last line shown: its time in milliseconds, its usage type, and of an event its source service and id."""
    count: int


class Series:
    """Reads them. Raises Problem, AccessRefused, StoreAway or WarehouseAway."""

    def __init__(
        self, store: Store, warehouse: Warehouse, freshness: Freshness, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._warehouse = warehouse
        self._freshness = freshness
        self._now = now
        self._tenant_sql = statement("tenant")
        self._sql = {view: statement(f"clickhouse_{view}").decode() for view in ("series", "events")}

    async def of(self, tenant_id: str, principal: Principal, query: Mapping[str, str]) -> SeriesAnswer | EventsAnswer:
        """A page."""
        valid_name("tenantId", tenant_id)
        require_tenant(principal, tenant_id)
        asked = asked_of(query, self._now().date())
        # Before the rows, which then hold at least what it says.
        as_of = self._freshness.as_of
        if not await self._store.rows("tenant", self._tenant_sql, {"tenant": tenant_id}):
            raise Problem(404, "unknown_tenant", "There is no such tenant; check tenantId.")
        at, *names = asked.after
        parameters = {
            "tenant": tenant_id,
            "start": asked.start,
            "end": asked.end,
            "type": asked.usage_type,
            "hourly": int(asked.granularity == "hour"),
            "after_ms": at,
            **dict(zip(("after_type", "after_service", "after_entity"), names, strict=True)),
            # One more than the page tells whether there is a next one.
            "count": asked.count + 1,
        }
        rows = await self._warehouse.rows(asked.view, self._sql[asked.view], parameters)
        more, rows = len(rows) > asked.count, rows[: asked.count]
        cursor = _cursor_of(rows[-1]) if more else None
        if asked.view == "events":
            return EventsAnswer(tenant_id, as_of, [_event(row) for row in rows], cursor)
        lines = [SeriesLine(row[1], format_instant(row[0]), number(int(row[4])), row[5]) for row in rows]
        return SeriesAnswer(tenant_id, asked.granularity, as_of, lines, cursor)


def asked_of(query: Mapping[str, str], today: date) -> Asked:
    """Raises Problem 400."""
    view = query.get("view", "series")
    if view not in ("series", "events"):
        raise Problem(400, "bad_view", "view is series or events.")
    granularity = query.get("granularity", "day")
    if granularity not in DAYS_MAX:
        raise Problem(400, "bad_granularity", "granularity is day or hour.")
    start = _date("from", query.get("from"), today.replace(day=1))
    end = _date("to", query.get("to"), max(today, start) + timedelta(days=1))
    days_max = DAYS_MAX["day" if view == "events" else granularity]
    if not 0 < (end - start).days <= days_max:
        raise Problem(400, "bad_range", f"The range is empty or longer than {days_max} days; `to` is the first day after it.")
    usage_type = query.get("usageType", "")
    return Asked(
        cast(View, view),
        cast(Granularity, granularity),
        start,
        end,
        valid_name("usageType", usage_type) if usage_type else "",
        _after(query.get("cursor")),
        page_size(query.get("limit")),
    )


def _date(name: str, text: str | None, default: date) -> date:
    if text is None:
        return default
    try:
        found = date.fromisoformat(text) if len(text) == 10 else None
    except ValueError:
        found = None
    # What ClickHouse's dates hold.
    if found is None or not 1970 <= found.year <= 2148:
        raise Problem(400, "bad_date", f"{name} is no day; send it as 2026-10-31, in UTC.")
    return found


def _after(cursor: str | None) -> tuple[int, str, str, str]:
    if cursor is None:
        return (-1, "", "", "")
    try:
        if len(cursor) > CURSOR_BYTES_MAX:
            raise ValueError(cursor)
        after = _CURSOR.decode(base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True))
        if not 0 <= after[0] < 1 << 53 or any("\x00" in name for name in after[1:]):
            raise ValueError(cursor)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise Problem(400, "bad_cursor", "cursor is not one of ours; send nextCursor as it came, with the same query.") from None
    return after


def _cursor_of(row: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((int(row[0]), *row[1:4]))).decode()


def _event(row: tuple[Any, ...]) -> EventLine:
    at, usage_type, service, entity, micros, kind, ingested, epoch, partition, offset, metadata = row
    line = EventLine(
        usage_type,
        number(int(micros)),
        format_instant(at),
        service,
        entity,
        kind,
        format_instant(ingested),
        epoch,
        partition,
        offset,
    )
    if metadata:
        line.metadata = msgspec.Raw(metadata.encode())
    return line
