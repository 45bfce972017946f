"""Fences and counters: the position up to which Postgres has counted, moved in the transaction that counts.

Statements run in the caller's transaction; the caller commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from meterline_schemas.delta import DeltaLine, Figures

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


def add_lines(connection: Connection[Any], lines: Sequence[DeltaLine]) -> None:
    """Adds a delta's lines to the counters and running totals, sorted by key so that two writers cannot deadlock."""
    if not lines:
        return
    days: dict[tuple[str, str, str], tuple[int, int]] = {}
    totals: dict[tuple[str, str], int] = {}
    for line in lines:
        key = (line.tenant_id, line.usage_type, line.day)
        quantity, events = days.get(key, (0, 0))
        days[key] = quantity + line.quantity, events + line.events
        totals[key[:2]] = totals.get(key[:2], 0) + line.quantity
    ordered = sorted(days)
    connection.execute(
        "INSERT INTO usage_counters AS c (tenant_id, usage_type, day, quantity, events)"
        " SELECT * FROM unnest(%s::text[], %s::text[], %s::date[], %s::numeric[], %s::bigint[])"
        " ON CONFLICT (tenant_id, usage_type, day)"
        " DO UPDATE SET quantity = c.quantity + excluded.quantity, events = c.events + excluded.events",
        (
            [tenant for tenant, _, _ in ordered],
            [usage_type for _, usage_type, _ in ordered],
            [date.fromisoformat(day) for _, _, day in ordered],
            [_decimal(days[key][0]) for key in ordered],
            [days[key][1] for key in ordered],
        ),
    )
    pairs = sorted(totals)
    connection.execute(
        "INSERT INTO usage_totals AS t (tenant_id, usage_type, quantity, changed_at)"
        " SELECT *, now() FROM unnest(%s::text[], %s::text[], %s::numeric[])"
        " ON CONFLICT (tenant_id, usage_type)"
        " DO UPDATE SET quantity = t.quantity + excluded.quantity, changed_at = excluded.changed_at",
        (
            [tenant for tenant, _ in pairs],
            [usage_type for _, usage_type in pairs],
            [_decimal(totals[pair]) for pair in pairs],
        ),
    )


def note_repair(connection: Connection[Any], fence: Fence, to_offset: int, cause: str) -> None:
    """Keeps that [fence, to_offset) was counted from ClickHouse."""
    connection.execute(
        "INSERT INTO repairs (epoch, partition, from_offset, to_offset, cause) VALUES (%s, %s, %s, %s, %s)",
        (fence.epoch, fence.partition, fence.next_offset, to_offset, cause),
    )


def positions(fences: Iterable[Fence]) -> Mapping[tuple[int, int], int]:
    """The vector that the fences make."""
    return {(fence.epoch, fence.partition): fence.next_offset for fence in fences}


def _decimal(micros: int) -> Decimal:
    # From text, for arithmetic on a Decimal rounds to the context's 28 digits.
    return Decimal(f"{micros}E-6")
