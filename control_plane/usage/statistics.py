"""Statistics of credits: what was spent and reported by day, service, operation and model, from ClickHouse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

from control_plane.credit_events import CHARGED, REPORTED
from control_plane.refusals import Refusal
from control_plane.unit import STAGE
from meterline_schemas.quantity import format_quantity
from runtime import metrics
from runtime.warehouse import Readers, WarehouseAway

DAYS_MAX: Final = 400
DAYS_DEFAULT: Final = 30
FIRST_YEAR, LAST_YEAR = 1970, 2148
"""What ClickHouse's dates hold."""
SHOWN_MAX: Final = 100
"""Lines of each breakdown but the days; the rest is told as one sum."""

_BY_USER: Final = "('user', user)"
# One pass over the rows, each in every breakdown; the greatest lines of each.
_SQL: Final = """
SELECT at.1 AS breakdown, at.2 AS name, toString(sum(micros)) AS credits,
       toString(sumIf(micros, usage_type = {{charged:String}})) AS charged, count() AS events
  FROM (SELECT toString(toDate(occurred_at, 'UTC')) AS day, source_service, usage_type,
               JSONExtractString(metadata, 'operation') AS operation, JSONExtractString(metadata, 'modelId') AS model,
               JSONExtractString(metadata, 'userId') AS user, toInt128(reinterpretAsInt64(quantity)) AS micros
          FROM usage
         WHERE tenant_id = {{tenant:String}} AND usage_type IN ({{charged:String}}, {{reported:String}})
           AND occurred_at >= toDateTime64({{start:Date}}, 3, 'UTC') AND occurred_at < toDateTime64({{end:Date}}, 3, 'UTC')
           AND ({{user:String}} = '' OR JSONExtractString(metadata, 'userId') = {{user:String}}))
 ARRAY JOIN [('total', ''), ('day', day), ('service', source_service), ('operation', operation), ('model', model){also}] AS at
 GROUP BY breakdown, name
 ORDER BY breakdown, sum(micros) DESC, name
 LIMIT {{days:UInt32}} BY breakdown
"""


@dataclass(frozen=True)
class Line:
    """A line of a breakdown."""

    name: str
    credits: int
    """In millionths: charged and reported."""
    charged: int
    events: int


@dataclass(frozen=True)
class Statistics:
    """What was used on the days from `start` to `end`, both of them."""

    start: date
    end: date
    total: Line
    breakdowns: dict[str, list[Line]]
    """By day in their order; the others by credits, the greatest first, SHOWN_MAX at most."""
    others: dict[str, Line]
    """What the lines of a breakdown leave out, where they leave something out."""


def days_of(start: date | None, end: date | None, today: date) -> tuple[date, date]:
    """The days that are meant. Raises Refusal."""
    last = end or max(today, start or today)
    first = start or last - timedelta(days=DAYS_DEFAULT - 1)
    if not (first.year >= FIRST_YEAR and last.year <= LAST_YEAR and 0 <= (last - first).days < DAYS_MAX):
        raise Refusal(
            "invalid",
            "bad_range",
            f"From startDate to endDate, both included, are 1 to {DAYS_MAX} days, such as 2026-10-01 to 2026-10-31.",
        )
    return first, last


def statistics(readers: Readers, tenant_id: str, user_id: str | None, start: date, end: date) -> Statistics:
    """Of a user, or without one of the tenant, with its users as another breakdown. Raises Refusal while ClickHouse is away."""
    parameters = {
        "tenant": tenant_id,
        "user": user_id or "",
        "start": start,
        "end": end + timedelta(days=1),
        "charged": CHARGED,
        "reported": REPORTED,
        "days": DAYS_MAX,
    }
    sql = _SQL.format(also="" if user_id else f", {_BY_USER}")
    try:
        rows = readers.rows("credit_statistics", sql, parameters)
    except WarehouseAway as away:
        metrics.RETRIES.labels(STAGE, "clickhouse").inc()
        raise Refusal("unavailable", "warehouse_unavailable", str(away), retry_after_s=1) from away
    return _of_rows(start, end, rows, ("day", "service", "operation", "model") if user_id else BREAKDOWNS)


BREAKDOWNS: Final = ("day", "service", "operation", "model", "user")


def _of_rows(start: date, end: date, rows: Sequence[Sequence[Any]], wanted: Sequence[str]) -> Statistics:
    lines: dict[str, list[Line]] = {name: [] for name in ("total", *wanted)}
    for breakdown, name, amount, charged, events in rows:
        lines[breakdown].append(Line(name, int(amount), int(charged), events))
    (total,) = lines.pop("total") or [Line("", 0, 0, 0)]
    others = {}
    for name, found in lines.items():
        if name == "day":
            found.sort(key=lambda line: line.name)
            continue
        shown = found[:SHOWN_MAX]
        rest = Line(
            "",
            total.credits - sum(line.credits for line in shown),
            total.charged - sum(line.charged for line in shown),
            total.events - sum(line.events for line in shown),
        )
        if rest.events:
            others[name] = rest
        lines[name] = shown
    return Statistics(start, end, total, lines, others)


def shown(found: Statistics) -> dict[str, object]:
    """As the answer has it."""
    document: dict[str, object] = {
        "startDate": found.start.isoformat(),
        "endDate": found.end.isoformat(),
        "total": _sums(found.total),
    }
    for name, lines in found.breakdowns.items():
        document[f"by{name.capitalize()}"] = [{name if name != "day" else "date": line.name, **_sums(line)} for line in lines]
    document["others"] = {f"by{name.capitalize()}": _sums(line) for name, line in found.others.items()}
    return document


def _sums(line: Line) -> dict[str, object]:
    return {
        "credits": Decimal(format_quantity(line.credits)),
        "charged": Decimal(format_quantity(line.charged)),
        "events": line.events,
    }
