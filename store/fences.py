"""Fences and counters: the position up to which Postgres has counted, moved in the transaction that counts.

Statements run in the caller's transaction; the caller commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from metering.counters import Sums, totals_of
from metering.line_columns import SEPARATOR
from meterline_schemas.delta import DeltaLine, Figures

ROWS_MAX = 20_000
"""Counters of one statement: it must end within the statement timeout on a busy server, too."""

_ADD_DAYS = (
    "INSERT INTO usage_counters AS c (tenant_id, usage_type, day, quantity, events)"
    " SELECT tenant_id, usage_type, day, micros * 0.000001, events FROM unnest("
    "  string_to_array(%s, E'\\x1f'), string_to_array(%s, E'\\x1f'), string_to_array(%s, E'\\x1f')::date[],"
    "  string_to_array(%s, E'\\x1f')::numeric[], string_to_array(%s, E'\\x1f')::bigint[]"
    " ) AS line (tenant_id, usage_type, day, micros, events)"
    " ON CONFLICT (tenant_id, usage_type, day)"
    " DO UPDATE SET quantity = c.quantity + excluded.quantity, events = c.events + excluded.events"
)
_ADD_TOTALS = (
    "INSERT INTO usage_totals AS t (tenant_id, usage_type, quantity, changed_at)"
    " SELECT tenant_id, usage_type, micros * 0.000001, now() FROM unnest("
    "  string_to_array(%s, E'\\x1f'), string_to_array(%s, E'\\x1f'), string_to_array(%s, E'\\x1f')::numeric[]"
    " ) AS line (tenant_id, usage_type, micros)"
    " ON CONFLICT (tenant_id, usage_type)"
    " DO UPDATE SET quantity = t.quantity + excluded.quantity, changed_at = excluded.changed_at"
)
_COLUMNS = "epoch, partition, next_offset, rules_version, admitted, duplicate, conflict, invalid, void, hash_sum"


@dataclass(frozen=True)
class Fence:
    """One row of delta_fences."""

    epoch: int
    partition: int
    next_offset: int
    rules_version: int
    figures: Figures


@dataclass(frozen=True)
class _Row:
    epoch: int
    partition: int
    next_offset: int
    rules_version: int
    admitted: int
    duplicate: int
    conflict: int
    invalid: int
    void: int
    hash_sum: Decimal

    def fence(self) -> Fence:
        figures = Figures(self.admitted, self.duplicate, self.conflict, self.invalid, self.void, int(self.hash_sum))
        return Fence(self.epoch, self.partition, self.next_offset, self.rules_version, figures)


def read_fences(connection: Connection[Any], epoch: int | None = None) -> list[Fence]:
    """Every fence, or those of one epoch, as of this statement."""
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM delta_fences WHERE %s::int IS NULL OR epoch = %s ORDER BY epoch, partition",
            (epoch, epoch),
        )
        return [row.fence() for row in cursor]


def lock_fences(connection: Connection[Any], keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Fence]:
    """Locks the rows of (epoch, partition) in one order for all, so that two counters cannot deadlock."""
    wanted = sorted(set(keys))
    with connection.cursor(row_factory=class_row(_Row)) as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM delta_fences"
            " WHERE (epoch, partition) IN (SELECT * FROM unnest(%s::int[], %s::int[]))"
            " ORDER BY epoch, partition FOR UPDATE",
            ([epoch for epoch, _ in wanted], [partition for _, partition in wanted]),
        )
        return {(row.epoch, row.partition): row.fence() for row in cursor}


def move_fence(connection: Connection[Any], fence: Fence) -> None:
    """Writes a locked row. The database refuses one that moves back."""
    figures = fence.figures
    connection.execute(
        "UPDATE delta_fences SET next_offset = %s, rules_version = %s, admitted = %s, duplicate = %s, conflict = %s,"
        " invalid = %s, void = %s, hash_sum = %s, moved_at = clock_timestamp() WHERE epoch = %s AND partition = %s",
        (
            fence.next_offset,
            fence.rules_version,
            figures.admitted,
            figures.duplicate,
            figures.conflict,
            figures.invalid,
            figures.void,
            figures.hash_sum,
            fence.epoch,
            fence.partition,
        ),
    )


def add_lines(connection: Connection[Any], lines: Iterable[DeltaLine]) -> None:
    """As `add_sums`, of what the lines come to."""
    sums = Sums()
    sums.add(lines)
    add_sums(connection, sums)


def add_sums(connection: Connection[Any], sums: Sums) -> None:
    """Adds to the counters and running totals, in one order for all so that two writers cannot deadlock.

    Each counter is written once, however many ranges its sum is of. Blocks some 10 us a counter.
    """
    days = sums.days()
    _write(connection, _ADD_DAYS, days)
    _write(connection, _ADD_TOTALS, totals_of(days))


def _write(connection: Connection[Any], statement: str, columns: Sequence[Sequence[str]]) -> None:
    for start in range(0, len(columns[0]), ROWS_MAX):
        # One text a column costs a tenth of an array of objects. A delta's names hold no control character; one that did
        # would make its column longer than the others, whose nulls the tables refuse.
        connection.execute(statement, tuple(SEPARATOR.join(column[start : start + ROWS_MAX]) for column in columns))


def note_repair(connection: Connection[Any], fence: Fence, to_offset: int, cause: str) -> None:
    """Keeps that [fence, to_offset) was counted from ClickHouse."""
    connection.execute(
        "INSERT INTO repairs (epoch, partition, from_offset, to_offset, cause) VALUES (%s, %s, %s, %s, %s)",
        (fence.epoch, fence.partition, fence.next_offset, to_offset, cause),
    )


def positions(fences: Iterable[Fence]) -> Mapping[tuple[int, int], int]:
    """The vector that the fences make."""
    return {(fence.epoch, fence.partition): fence.next_offset for fence in fences}
