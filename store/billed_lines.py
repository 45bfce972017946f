"""The lines behind a billed total, from the admitted rows: by usage type, day, source service and kind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from clickhouse_connect.driver.client import Client

from store.event_log import Places, rows_below

LINES_MAX = 200_000
"""Most lines of one answer: a hundred usage types from sixty services on every day of a month."""


class TooManyLines(ValueError):
    """More lines than can be told."""


@dataclass(frozen=True)
class Part:
    """Rows of days in [start, end), below positions."""

    start: date
    end: date
    below: Places


@dataclass(frozen=True)
class BilledLine:
    """What one source service used of one type on one day. Corrections stand apart."""

    usage_type: str
    day: date
    source_service: str
    kind: str
    quantity: Decimal
    events: int


def billed_lines(
    client: Client, tenant_id: str, part: Part, without: Sequence[Part] = (), *, only: str = "", but: Collection[str] = ()
) -> list[BilledLine]:
    """The lines of a part of the tenant's rows, `without` those that stand in other parts, each row counted once; in order of
    type, day, service and kind. Of `only` one usage type, or of all `but` some. Raises TooManyLines, and the client's errors."""
    if not part.below:
        return []
    left_out = "".join(f" AND NOT ({_rows_of(other)})" for other in without if other.below)
    result = client.query(
        "SELECT usage_type, toString(toDate(occurred_at, 'UTC')) AS day, source_service, kind,"
        " toString(sum(toInt128(reinterpretAsInt64(quantity)))), count()"
        " FROM (SELECT usage_type, occurred_at, source_service, kind, quantity FROM usage_events"
        f"  WHERE tenant_id = {{tenant:String}} AND {_rows_of(part)}{left_out}"
        "  AND ({only:String} = '' OR usage_type = {only:String}) AND NOT has({but:Array(String)}, usage_type)"
        "  LIMIT 1 BY log_epoch, kafka_partition, kafka_offset)"
        " GROUP BY usage_type, day, source_service, kind ORDER BY usage_type, day, source_service, kind LIMIT {most:UInt32}",
        parameters={"tenant": tenant_id, "most": LINES_MAX + 1, "only": only, "but": list(but)},
    )
    if len(result.result_rows) > LINES_MAX:
        raise TooManyLines(f"the usage of {tenant_id} has more than {LINES_MAX} lines")
    return [
        BilledLine(usage_type, date.fromisoformat(day), service, kind, Decimal(f"{int(micros)}E-6"), int(events))
        for usage_type, day, service, kind, micros, events in result.result_rows
    ]


def _rows_of(part: Part) -> str:
    return (
        f"occurred_at >= toDateTime64('{part.start.isoformat()}', 3, 'UTC')"
        f" AND occurred_at < toDateTime64('{part.end.isoformat()}', 3, 'UTC') AND {rows_below(part.below)}"
    )
