"""/api/usage-records."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

from fastapi import Query

from access.principals import Who
from control_plane.http.calls import Here
from control_plane.http.envelope import Answer, Listed, Success, listed, success
from control_plane.http.paging import Cursor, Limit, after_cursor, cursor_of
from control_plane.http.routes import EVERYBODY, Routes
from control_plane.refusals import Refusal
from control_plane.usage_records import service
from control_plane.usage_records.schemas import Recorded, UsageLine, UsageOrder, UsageRecord

MACHINES: Final[frozenset[Who]] = frozenset({"service", "key"})
"""What is billed is written by machines."""

routes = Routes("usage records")

From = Annotated[date | None, Query(alias="from", description="First day, in UTC; the first of this month.")]
To = Annotated[date | None, Query(description="First day that is left out, in UTC; tomorrow.")]
Type = Annotated[str | None, Query(max_length=256, description="Of this usage type only.")]
Organization = Annotated[str | None, Query(max_length=256, description="Whose; your own by default.")]


@routes.post("/api/usage-records", MACHINES, shows=Success[Recorded], status=202)
def record(call: Here, order: UsageOrder) -> Answer:
    """Records usage: kept when this is answered, published after, counted once however often it is sent."""
    with call.unit() as unit:
        return success(service.record(unit, call.principal, order, call.parts.settings.topic_events), 202)


@routes.get("/api/usage-records", EVERYBODY, shows=Listed[UsageRecord])
def records(
    call: Here,
    organization_id: Organization = None,
    first: From = None,
    to: To = None,
    usage_type: Type = None,
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Answer:
    """The admitted records themselves, in order of their time."""
    tenant_id, (start, end) = call.tenant(organization_id), _range(first, to)
    after = after_cursor(cursor, int, str, str, str)
    place = None if after is None else (int(after[0]), str(after[1]), str(after[2]), str(after[3]))
    found = service.records(call.parts.readers, tenant_id, start, end, usage_type, place, limit + 1)
    more = len(found) > limit
    return listed([one for one, _ in found[:limit]], cursor_of(*found[limit - 1][1]) if more else None, limit)


@routes.get("/api/usage-records/summary", EVERYBODY, shows=Listed[UsageLine])
def summary(
    call: Here,
    organization_id: Organization = None,
    first: From = None,
    to: To = None,
    usage_type: Type = None,
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Answer:
    """What was counted, by day and usage type."""
    tenant_id, (start, end) = call.tenant(organization_id), _range(first, to)
    after = after_cursor(cursor, str, str)
    with call.unit() as unit:
        found = service.usage(unit, tenant_id, start, end, usage_type, _place(after), limit + 1)
    more = len(found) > limit
    last = cursor_of(found[limit - 1].day.isoformat(), found[limit - 1].usage_type) if more else None
    return listed(found[:limit], last, limit)


def _range(first: date | None, to: date | None) -> tuple[date, date]:
    today = datetime.now(UTC).date()
    start = today.replace(day=1) if first is None else first
    return start, max(today, start) + timedelta(days=1) if to is None else to


def _place(after: tuple[str | int, ...] | None) -> tuple[date, str] | None:
    if after is None:
        return None
    try:
        return date.fromisoformat(str(after[0])), str(after[1])
    except ValueError:
        raise Refusal("invalid", "bad_cursor", "This is no cursor of this list; send the last page's nextCursor.") from None
