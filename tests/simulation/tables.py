"""ClickHouse in memory: `usage_events` row by row as they arrived, copies included, and `usage_rejects` by position.

A read may lag: it sees the first so many arrivals, as a replica that is behind would show them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

from metering.index import Hashes
from metering.ranges import Claim, Decided
from metering.texts import listed
from meterline_schemas.delta import DeltaLine
from meterline_schemas.types import Micros, TenantId, UsageType
from store.event_log import Held, Keys, Recomputed
from tests.simulation import codec
from tests.simulation.violation import Violation
from tests.simulation.workload import DAY_MS


class Row(NamedTuple):
    """A row of usage_events: what its record and position determine."""

    epoch: int
    partition: int
    offset: int
    key: bytes
    key_hash: int
    tenant_id: str
    usage_type: str
    day: int
    quantity: Micros
    kind: str
    corrects: bytes
    row_hash: int


class RejectRow(NamedTuple):
    """A row of usage_rejects. `admitted` is the epoch and offset of the row that holds the key."""

    epoch: int
    partition: int
    offset: int
    verdict: str
    reason: str
    raw_value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    admitted: tuple[int, int] | None


def admitted_rows(ranges: Iterable[Decided]) -> tuple[Row, ...]:
    """Stands where the consumer makes its Arrow table."""
    return tuple(
        row
        for decided in ranges
        for row in map(
            Row,
            repeat(int(decided.span.epoch)),
            repeat(int(decided.span.partition)),
            decided.admitted.offset.tolist(),
            listed(decided.admitted.key),
            decided.admitted.key_hash.tolist(),
            listed(decided.admitted.tenant_id),
            listed(decided.admitted.usage_type),
            (decided.admitted.occurred_ms // DAY_MS).tolist(),
            decided.admitted.micros.tolist(),
            listed(decided.admitted.kind),
            listed(decided.admitted.corrects),
            decided.admitted.row_hash.tolist(),
        )
    )


def reject_rows(ranges: Iterable[Decided]) -> tuple[RejectRow, ...]:
    """Stands where the consumer makes its Arrow table."""
    return tuple(
        RejectRow(
            decided.span.epoch,
            decided.span.partition,
            reject.reading.record.offset,
            reject.verdict,
            str(reject.reason),
            reject.reading.record.value,
            reject.reading.record.headers,
            reject.admitted.position if reject.admitted is not None else None,
        )
        for decided in ranges
        for reject in decided.rejects
    )


class Tables:
    """What has arrived, in order. `seen` of a read is how many arrivals it sees; None for all."""

    def __init__(self) -> None:
        self.arrived: list[Row] = []
        self.events: dict[tuple[int, int, int], Row] = {}
        self.rejects: dict[tuple[int, int, int], RejectRow] = {}

    def insert(self, admitted: Sequence[Row], rejects: Sequence[RejectRow]) -> None:
        """Copies are identical, or they would not collapse."""
        for row in admitted:
            known = self.events.setdefault((row.epoch, row.partition, row.offset), row)
            if known != row:
                raise Violation("I3", f"two rows at one position differ: {known} and {row}")
            self.arrived.append(row)
        for reject in rejects:
            kept = self.rejects.setdefault((reject.epoch, reject.partition, reject.offset), reject)
            if kept != reject:
                raise Violation("I6", f"two rejects at one position differ: {kept} and {reject}")

    def held_below(self, epoch: int, partition: int, offset: int, seen: int | None, add: Callable[[Hashes], object]) -> Held:
        """As the consumer's rebuild reads it: one row an offset."""
        found = self._between(epoch, partition, 0, offset, seen)
        add(np.array([row.key_hash for row in found.values()], dtype=np.uint64))
        return Held(len(found), sum(row.row_hash for row in found.values()) % (1 << 64))

    def keys_between(self, epoch: int, partition: int, from_offset: int, to_offset: int, seen: int | None) -> Keys:
        """As the consumer reads what an older epoch has left."""
        rows = self._between(epoch, partition, from_offset, to_offset, seen).values()
        return Keys(
            np.array([row.key_hash for row in rows], dtype=np.uint64),
            np.array([codec.murmur2(row.key) for row in rows], dtype=np.uint32),
            np.array([row.row_hash for row in rows], dtype=np.uint64),
        )

    def _between(self, epoch: int, partition: int, from_offset: int, to_offset: int, seen: int | None) -> dict[int, Row]:
        return {
            row.offset: row
            for row in self.arrived[:seen]
            if row.partition == partition and row.epoch == epoch and from_offset <= row.offset < to_offset
        }

    def confirm(self, hashes: Hashes, seen: int | None) -> dict[bytes, Claim]:
        """As the consumer's exact confirm reads it: by hash, each key at its smallest position."""
        wanted = set(hashes.tolist())
        claims: dict[bytes, Claim] = {}
        for row in self.arrived[:seen]:
            if row.key_hash in wanted:
                known = claims.get(row.key)
                if known is None or (row.epoch, row.offset) < known.position:
                    claims[row.key] = Claim(
                        row.epoch,
                        row.partition,
                        row.offset,
                        row.tenant_id,
                        row.quantity,
                        row.kind,
                        row.corrects,
                        row.row_hash,
                        row.key_hash,
                    )
        return claims

    def recompute(self, epoch: int, partition: int, from_offset: int, to_offset: int, seen: int | None) -> Recomputed:
        """As the aggregator reads a range back: one row an offset."""
        found = self._between(epoch, partition, from_offset, to_offset, seen)
        return Recomputed(lines_of(found.values()), len(found), sum(row.row_hash for row in found.values()) % (1 << 64))


def lines_of(rows: Iterable[Row]) -> tuple[DeltaLine, ...]:
    """What rows add to the counters."""
    sums: dict[tuple[str, str, int], tuple[int, int]] = {}
    for row in rows:
        key = (row.tenant_id, row.usage_type, row.day)
        quantity, events = sums.get(key, (0, 0))
        sums[key] = quantity + row.quantity, events + 1
    return tuple(
        DeltaLine(TenantId(tenant), UsageType(usage_type), str(np.datetime64(day, "D")), Micros(quantity), events)
        for (tenant, usage_type, day), (quantity, events) in sorted(sums.items())
    )
