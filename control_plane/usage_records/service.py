"""Records usage through the outbox, and reads it: days from the counters, single records from ClickHouse."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import column as name_of
from sqlalchemy import select, tuple_
from sqlalchemy import table as table_of

from access.principals import Principal, require_source, require_tenant
from control_plane.credit_events import promise
from control_plane.refusals import Refusal
from control_plane.unit import Unit
from control_plane.usage_records.schemas import Recorded, UsageLine, UsageOrder, UsageRecord
from meterline_schemas.draft import EventDraft
from runtime.warehouse import Readers, WarehouseAway

DAYS_MAX: Final = 400

COUNTERS: Final = table_of(
    "usage_counters", *(name_of(name) for name in ("tenant_id", "usage_type", "day", "quantity", "events"))
)
_TENANTS = table_of("tenants", name_of("tenant_id"))
_TYPES = table_of("usage_types", name_of("usage_type"))

_RECORDS: Final = """
SELECT toUnixTimestamp64Micro(toDateTime64(occurred_at, 6, 'UTC')) AS at_us,
       usage_type, source_service, source_entity_id, quantity
  FROM usage
 WHERE tenant_id = {tenant:String} AND ({type:String} = '' OR usage_type = {type:String})
   AND occurred_at >= toDateTime64({start:Date}, 3, 'UTC') AND occurred_at < toDateTime64({end:Date}, 3, 'UTC')
   AND (at_us, usage_type, source_service, source_entity_id)
       > ({after_us:Int64}, {after_type:String}, {after_service:String}, {after_entity:String})
 ORDER BY at_us, usage_type, source_service, source_entity_id
 LIMIT {count:UInt32}
"""

Place = tuple[int, str, str, str]
"""Where a page of records ended: its last record's time in microseconds, usage type, service and id."""


def record(unit: Unit, principal: Principal, order: UsageOrder, topic: str) -> Recorded:
    """Promises the event; it is published once the unit is committed. A repeat is published too, and counted once.

    Raises AccessRefused for a tenant or a source service out of scope, Refusal for a tenant or a type that there is not.
    """
    require_tenant(principal, order.organization_id)
    require_source(principal, order.source_service)
    for found, code, what in (
        (select(_TENANTS).where(_TENANTS.c.tenant_id == order.organization_id), "unknown_tenant", "organization_id"),
        (select(_TYPES).where(_TYPES.c.usage_type == order.usage_type), "unknown_usage_type", "usage_type"),
    ):
        if unit.sql.execute(found).first() is None:
            raise Refusal("unprocessable", code, f"The catalog has no such {what}; check it, or apply it to the plans first.")
    draft = EventDraft(
        order.organization_id,
        order.source_service,
        order.source_entity_id,
        order.usage_type,
        order.quantity,
        order.occurred_at,
        metadata=order.metadata,
    )
    promise(unit.pg, draft, topic)
    return Recorded(state="queued", **order.model_dump(include=set(Recorded.model_fields) - {"state"}))


def usage(
    unit: Unit, tenant_id: str, start: date, end: date, usage_type: str | None, after: tuple[date, str] | None, count: int
) -> Sequence[UsageLine]:
    """What was counted on the days [start, end), by day and type: up to `count` lines behind a place. Raises Refusal."""
    _require_range(start, end)
    found = (
        select(COUNTERS)
        .where(COUNTERS.c.tenant_id == tenant_id, COUNTERS.c.day >= start, COUNTERS.c.day < end)
        .order_by(COUNTERS.c.day, COUNTERS.c.usage_type)
        .limit(count)
    )
    if usage_type is not None:
        found = found.where(COUNTERS.c.usage_type == usage_type)
    if after is not None:
        found = found.where(tuple_(COUNTERS.c.day, COUNTERS.c.usage_type) > after)
    return [
        UsageLine(usage_type=row.usage_type, day=row.day, quantity=_shown(row.quantity), events=row.events)
        for row in unit.sql.execute(found)
    ]


def records(
    readers: Readers, tenant_id: str, start: date, end: date, usage_type: str | None, after: Place | None, count: int
) -> list[tuple[UsageRecord, Place]]:
    """The admitted events of the days [start, end), each with its place: up to `count` behind a place. Raises Refusal."""
    _require_range(start, end)
    at, *names = (-1, "", "", "") if after is None else after
    parameters: dict[str, Any] = {
        "tenant": tenant_id,
        "type": usage_type or "",
        "start": start,
        "end": end,
        "after_us": at,
        **dict(zip(("after_type", "after_service", "after_entity"), names, strict=True)),
        "count": count,
    }
    try:
        rows = readers.rows("usage_records", _RECORDS, parameters)
    except WarehouseAway as away:
        raise Refusal("unavailable", "clickhouse_unavailable", str(away), retry_after_s=1) from None
    return [(_record(row), (int(row[0]), *row[1:4])) for row in rows]


def _record(row: Sequence[Any]) -> UsageRecord:
    at_us, usage_type, service, entity, quantity = row
    seconds, micros = divmod(int(at_us), 1_000_000)
    at = datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)
    return UsageRecord(
        usage_type=usage_type, quantity=_shown(quantity), occurred_at=at, source_service=service, source_entity_id=entity
    )


def _shown(quantity: Decimal) -> Decimal:
    """Without zeros behind the point that say nothing, and never in exponents."""
    plain = quantity.normalize()
    return plain.quantize(Decimal(1)) if plain == plain.to_integral_value() else plain


def _require_range(start: date, end: date) -> None:
    if not 0 < (end - start).days <= DAYS_MAX:
        raise Refusal(
            "invalid", "bad_range", f"The range is empty or longer than {DAYS_MAX} days; `to` is the first day after it."
        )
