"""A tenant's statement of one period: totals, the lines behind them, what came late, and what Stripe was told.

The totals are those of the close, of the counters while the period runs. The lines are read from ClickHouse below the same
positions. Both must agree to the last millionth, or there is no statement: one that does not add up is worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from clickhouse_connect.driver.client import Client
from psycopg import Connection

from billing_exporter.closes import Close, closes_of
from billing_exporter.statements.windows import Windows
from billing_exporter.truth import places
from metering.closing import ZERO, billed, difference
from metering.export_states import Positions
from metering.periods import FIRST_DAY, Period
from store.billed_lines import BilledLine, Part
from store.tenant_periods import tenant_period


class DoesNotAddUp(Exception):
    """The lines are not the total. Remedy: `meterline reconcile`."""


@dataclass(frozen=True)
class TypeTotal:
    """What is billed of one usage type. `carried_in` of it came too late for an earlier period, `corrected` is by corrections."""

    usage_type: str
    description: str
    unit: str
    meter: str | None
    quantity: Decimal
    carried_in: Decimal
    corrected: Decimal
    events: int


@dataclass(frozen=True)
class Told:
    """The newest revision of a meter's total in the ledger: total x scale + carried = value + remainder."""

    account: str
    livemode: bool
    meter: str
    usage_types: tuple[str, ...]
    total: Decimal
    scale: int
    carried: Decimal
    value: int
    remainder: Decimal
    revision: int
    state: str
    reason: str | None


@dataclass(frozen=True)
class Statement:
    """All of it. `later` are events of the period's days, or of earlier ones, that came after the close: they are counted, and
    billed in a later period."""

    tenant_id: str
    tenant_name: str
    period: Period
    state: Literal["closed", "running"]
    at: datetime
    """When the figures were fixed, or read."""
    positions: Positions
    totals: tuple[TypeTotal, ...]
    lines: tuple[BilledLine, ...]
    later: tuple[BilledLine, ...]
    told: tuple[Told, ...]

    def carried(self, line: BilledLine) -> bool:
        """Whether a line came too late for the period of its day."""
        return line.day < self.period.start


_RUNNING = """
SELECT NULL AS usage_type, NULL AS own_days, NULL AS until,
       (SELECT coalesce(jsonb_object_agg(epoch || ':' || partition, next_offset), '{}') FROM delta_fences) AS fences
 UNION ALL
SELECT u.usage_type, coalesce(c.quantity, 0), u.quantity - coalesce(later.quantity, 0), NULL
  FROM usage_totals u
  LEFT JOIN LATERAL (SELECT sum(quantity) AS quantity FROM usage_counters k WHERE k.tenant_id = u.tenant_id
         AND k.usage_type = u.usage_type AND k.day >= %(start)s AND k.day < %(end)s) c ON true
  LEFT JOIN LATERAL (SELECT sum(quantity) AS quantity FROM usage_counters k WHERE k.tenant_id = u.tenant_id
         AND k.usage_type = u.usage_type AND k.day >= %(end)s) later ON true
 WHERE u.tenant_id = %(tenant)s
"""

_TOLD = """
SELECT DISTINCT ON (l.account, l.livemode, l.meter) l.account, l.livemode, l.meter, m.usage_types, l.exact_total, m.scale,
       l.carried, l.value, l.remainder, l.revision, l.state, l.reason
  FROM export_ledger l
  JOIN export_mappings m USING (account, livemode, meter, period_start)
 WHERE l.tenant_id = %s AND l.period_start = %s
 ORDER BY l.account, l.livemode, l.meter, l.revision DESC
"""


def statement_of(connection: Connection[Any], client: Client, tenant_id: str, month: str, now: datetime) -> Statement:
    """The statement of the period that `month` names (see tenant_period).

    Raises DoesNotAddUp, TooManyLines, UnknownTenant, ValueError for a month that is none, and the stores' errors.
    """
    period = tenant_period(connection, tenant_id, month)
    closes = closes_of(connection, tenant_id)
    own = closes.get(period.start)
    before = next((close for close in closes.values() if close.period.end == period.start and close.state == "closed"), None)
    closed = own is not None and own.state == "closed"
    fences, totals = _running(connection, tenant_id, period, before)
    positions: Positions = fences
    if closed:
        assert own is not None
        positions, totals = own.positions, billed(own.totals, {} if before is None else before.totals)
    elif any(close.period.start >= period.end for close in closes.values()):
        # The first close is of a later period: what is counted in this one came late, and is billed there.
        positions, totals = {}, {}
    # As its close summed it: the first one has what is of earlier days, too.
    running = Part(FIRST_DAY if before is not None else period.start, period.end, places(positions))
    windows = Windows.of(connection, tenant_id, closes, period, running)
    lines = windows.lines(client)
    problem = difference(totals, _summed(lines))
    if problem is not None:
        raise DoesNotAddUp(
            f"the statement of {tenant_id} from {period.start} is not written, for its lines are not its total: {problem};"
            " run `meterline reconcile`"
        )
    later = windows.later(client, places(fences)) if closed else []
    name, fixed_at = _about(connection, tenant_id, period)
    return Statement(
        tenant_id,
        name,
        period,
        "closed" if closed else "running",
        fixed_at if closed and fixed_at is not None else now,
        positions,
        tuple(_totals(connection, totals, lines, period)),
        tuple(lines),
        tuple(later),
        tuple(
            Told(row[0], row[1], row[2], tuple(row[3]), *row[4:]) for row in connection.execute(_TOLD, (tenant_id, period.start))
        ),
    )


def _running(
    connection: Connection[Any], tenant_id: str, period: Period, before: Close | None
) -> tuple[dict[str, int], dict[str, Decimal]]:
    """Fences and the totals of the running period, of one snapshot."""
    fences: dict[str, int] = {}
    own_days: dict[str, Decimal] = {}
    until: dict[str, Decimal] = {}
    for usage_type, of_days, of_all, document in connection.execute(
        _RUNNING, {"tenant": tenant_id, "start": period.start, "end": period.end}
    ):
        if usage_type is None:
            fences = document
        else:
            own_days[usage_type], until[usage_type] = of_days, of_all
    return fences, billed(own_days, {}) if before is None else billed(until, before.totals)


def _totals(
    connection: Connection[Any], totals: Mapping[str, Decimal], lines: Iterable[BilledLine], period: Period
) -> list[TypeTotal]:
    lines = list(lines)
    names = sorted({*totals, *(line.usage_type for line in lines)})
    known = {
        usage_type: told
        for usage_type, *told in connection.execute(
            "SELECT usage_type, description, unit, meter FROM usage_types WHERE usage_type = ANY(%s)", (names,)
        )
    }
    found = []
    for name in names:
        own = [line for line in lines if line.usage_type == name]
        description, unit, meter = known.get(name, ("", "", None))
        found.append(
            TypeTotal(
                name,
                description,
                unit,
                meter,
                totals.get(name, ZERO),
                sum((line.quantity for line in own if line.day < period.start), ZERO),
                sum((line.quantity for line in own if line.kind == "correction"), ZERO),
                sum(line.events for line in own),
            )
        )
    return found


def _summed(lines: Iterable[BilledLine]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for line in lines:
        found[line.usage_type] = found.get(line.usage_type, ZERO) + line.quantity
    return found


def _about(connection: Connection[Any], tenant_id: str, period: Period) -> tuple[str, datetime | None]:
    row = connection.execute(
        "SELECT t.name, c.copied_at FROM tenants t LEFT JOIN period_closes c"
        " ON c.tenant_id = t.tenant_id AND c.period_start = %s WHERE t.tenant_id = %s",
        (period.start, tenant_id),
    ).fetchone()
    assert row is not None
    return row[0], row[1]
