"""I4: counters against the rows below the fences, and the healing of counters.

Fences and counters must come from one snapshot, or with the fences locked; the rows are those below exactly these
fences, which never change. Both sides are read in one order (tenant, type, day by bytes), a block of counters at a
time, so that neither has to fit into memory. ClickHouse merges copies of a row as it reads (FINAL).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg import Connection

from meterline_schemas.quantity import format_quantity
from store.findings import Check
from store.positions import below

BLOCK_LINES = 20_000
_HEALED_TOGETHER = 1_000

_SETTINGS = {
    # Copies of a row lie in one table partition, so each may be merged by itself.
    "do_not_merge_across_partitions_select_final": 1,
    "max_bytes_before_external_group_by": 1 << 30,
    "max_bytes_before_external_sort": 1 << 30,
}


class Line(NamedTuple):
    """One counter: which one, in the order of both reads."""

    tenant_id: str
    usage_type: str
    day: str


class Sum(NamedTuple):
    """What a counter holds, or should."""

    micros: int
    events: int

    def __str__(self) -> str:
        return f"{format_quantity(self.micros)} of {self.events} events"


@dataclass(frozen=True)
class Difference:
    """A counter that is not the sum of its rows; None where there is no counter, or no row."""

    line: Line
    counted: Sum | None
    rows: Sum | None


@dataclass(frozen=True)
class TotalDifference:
    """A running total that is not the sum of its counters."""

    tenant_id: str
    usage_type: str
    total: int | None
    counters: int | None


@dataclass
class Healed:
    """What a repair changed."""

    counters: int = 0
    totals: int = 0


def differences(
    connection: Connection[Any], client: Client, next_offsets: Mapping[tuple[int, int], int], block_lines: int = BLOCK_LINES
) -> Iterator[Difference | int]:
    """Every counter that differs from its rows, block by block; after each block the number of counters looked at in it."""
    with connection.cursor(name="reconcile_counters") as cursor:
        cursor.itersize = block_lines
        cursor.execute(
            "SELECT tenant_id, usage_type, day, trim_scale(quantity * 1000000)::text, events FROM usage_counters"
            ' ORDER BY tenant_id COLLATE "C", usage_type COLLATE "C", day'
        )
        after: Line | None = None
        while True:
            block = {
                Line(tenant, usage_type, day.isoformat()): Sum(int(micros), events)
                for tenant, usage_type, day, micros, events in cursor.fetchmany(block_lines)
            }
            upto = max(block) if len(block) == block_lines else None
            looked_at = len(block)
            for line, rows in _rows(client, next_offsets, after, upto):
                counted = block.pop(line, None)
                looked_at += counted is None
                if counted != rows:
                    yield Difference(line, counted, rows)
            for line, counted in sorted(block.items()):
                if counted != Sum(0, 0):
                    yield Difference(line, counted, None)
            yield looked_at
            if upto is None:
                return
            after = upto


def _rows(
    client: Client, next_offsets: Mapping[tuple[int, int], int], after: Line | None, upto: Line | None
) -> Iterator[tuple[Line, Sum]]:
    """The sums of the rows of (after, upto] below the positions."""
    # The bounds on the tenant alone are what the sort key can use.
    bounds = [below(next_offsets)]
    parameters: dict[str, str] = {}
    for name, sign, line in (("a", ">", after), ("u", "<=", upto)):
        if line is not None:
            parameters |= {name + "t": line.tenant_id, name + "u": line.usage_type, name + "d": line.day}
            key = "(tenant_id, toString(usage_type), toString(toDate(occurred_at, 'UTC')))"
            bounds.append(f"tenant_id {sign[0]}= {{{name}t:String}}")
            bounds.append(f"{key} {sign} ({{{name}t:String}}, {{{name}u:String}}, {{{name}d:String}})")
    stream = client.query_rows_stream(
        "SELECT tenant_id, usage_type, toString(toDate(occurred_at, 'UTC')) AS day,"
        " toString(sum(toInt128(reinterpretAsInt64(quantity)))), count() FROM usage_events FINAL"
        f" WHERE {' AND '.join(bounds)} GROUP BY tenant_id, usage_type, day",
        parameters=parameters,
        settings=_SETTINGS,
    )
    with stream as rows:
        for tenant, usage_type, day, micros, events in rows:
            yield Line(tenant, usage_type, day), Sum(int(micros), int(events))


def total_differences(connection: Connection[Any]) -> Iterator[TotalDifference]:
    """Every running total that is not the sum of its counters."""
    with connection.cursor(name="reconcile_totals") as cursor:
        cursor.execute(
            "SELECT tenant_id, usage_type, trim_scale(t.quantity * 1000000)::text, trim_scale(c.quantity * 1000000)::text"
            " FROM usage_totals t FULL JOIN (SELECT tenant_id, usage_type, sum(quantity) AS quantity FROM usage_counters"
            " GROUP BY tenant_id, usage_type) c USING (tenant_id, usage_type)"
            ' WHERE coalesce(t.quantity, 0) <> coalesce(c.quantity, 0) ORDER BY tenant_id COLLATE "C", usage_type COLLATE "C"'
        )
        for tenant, usage_type, total, counters in cursor:
            yield TotalDifference(
                tenant, usage_type, None if total is None else int(total), None if counters is None else int(counters)
            )


def check_counters(connection: Connection[Any], client: Client, next_offsets: Mapping[tuple[int, int], int]) -> Check:
    """I4, in the snapshot that `next_offsets` were read in."""
    check = Check("I4")
    for found in differences(connection, client, next_offsets):
        if isinstance(found, int):
            check.checked += found
            continue
        check.add("counter", found.line._asdict(), found.rows or "no rows", found.counted or "no counter")
    for total in total_differences(connection):
        where = {"tenant_id": total.tenant_id, "usage_type": total.usage_type}
        check.add("total", where, _shown(total.counters, "no counters"), _shown(total.total, "no total"))
    check.detail = f"{check.checked} counters are the sums of their rows below the fences"
    if not check.ok:
        check.detail = f"{check.findings_count} counters and totals differ, of {check.checked} counters"
    return check


def _shown(micros: int | None, absent: str) -> str:
    return absent if micros is None else format_quantity(micros)


def heal(connection: Connection[Any], client: Client, next_offsets: Mapping[tuple[int, int], int]) -> tuple[Healed, list[str]]:
    """Sets every counter and total to what the rows say; the fences must be locked by this transaction.

    Returns what was changed, and the first changes in words. Touches no other table.
    """
    healed, told = Healed(), list[str]()
    found = (one for one in differences(connection, client, next_offsets) if isinstance(one, Difference))
    while batch := list(islice(found, _HEALED_TOGETHER)):
        _set_counters(connection, batch)
        healed.counters += len(batch)
        told += [
            f"{'/'.join(one.line)}: {one.counted or 'no counter'} -> {one.rows or 'no rows'}" for one in batch[: 100 - len(told)]
        ]
    totals = total_differences(connection)
    while some := list(islice(totals, _HEALED_TOGETHER)):
        _set_totals(connection, some)
        healed.totals += len(some)
        told += [
            f"{one.tenant_id}/{one.usage_type}: total {_shown(one.total, 'absent')} -> {_shown(one.counters, 'absent')}"
            for one in some[: 100 - len(told)]
        ]
    return healed, told


def _set_counters(connection: Connection[Any], batch: Sequence[Difference]) -> None:
    gone = [one.line for one in batch if one.rows is None]
    right = [(one.line, one.rows) for one in batch if one.rows is not None]
    connection.execute(
        "DELETE FROM usage_counters WHERE (tenant_id, usage_type, day) IN"
        " (SELECT * FROM unnest(%s::text[], %s::text[], %s::date[]))",
        _columns(gone),
    )
    connection.execute(
        "INSERT INTO usage_counters (tenant_id, usage_type, day, quantity, events)"
        " SELECT * FROM unnest(%s::text[], %s::text[], %s::date[], %s::numeric[], %s::bigint[])"
        " ON CONFLICT (tenant_id, usage_type, day) DO UPDATE SET quantity = excluded.quantity, events = excluded.events",
        (
            *_columns([line for line, _ in right]),
            [Decimal(f"{rows.micros}E-6") for _, rows in right],
            [rows.events for _, rows in right],
        ),
    )


def _columns(lines: Sequence[Line]) -> tuple[list[str], list[str], list[date]]:
    return (
        [line.tenant_id for line in lines],
        [line.usage_type for line in lines],
        [date.fromisoformat(line.day) for line in lines],
    )


def _set_totals(connection: Connection[Any], batch: Sequence[TotalDifference]) -> None:
    gone = [one for one in batch if one.counters is None]
    right = [(one.tenant_id, one.usage_type, one.counters) for one in batch if one.counters is not None]
    connection.execute(
        "DELETE FROM usage_totals WHERE (tenant_id, usage_type) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        ([one.tenant_id for one in gone], [one.usage_type for one in gone]),
    )
    connection.execute(
        "INSERT INTO usage_totals (tenant_id, usage_type, quantity, changed_at)"
        " SELECT *, now() FROM unnest(%s::text[], %s::text[], %s::numeric[])"
        " ON CONFLICT (tenant_id, usage_type) DO UPDATE SET quantity = excluded.quantity, changed_at = excluded.changed_at",
        (
            [tenant for tenant, _, _ in right],
            [usage_type for _, usage_type, _ in right],
            [Decimal(f"{micros}E-6") for _, _, micros in right],
        ),
    )
