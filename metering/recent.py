"""R: the newest admitted rows of C, kept at hand.

Who gets no answer sends again within seconds, so most repeats are of rows that were admitted a moment ago. ClickHouse would
show these too, at the price of a block of every column for each of them. R is not needed for any verdict: what it lacks is
asked for, and what it says is what ClickHouse would say. A hash is answered by R only where R has as many keys of it as C
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metering.columns import NO_EVENTS, Columns, joined
from metering.index import Hashes
from metering.ranges import Claim, Decided, claims_of
from metering.ranked import Ranked


class Recent:
    """Of one process, of all its partitions. Only the deciding thread may touch it."""

    def __init__(self, events_max: int) -> None:
        """Most rows; the oldest go first, of the partition that has the most."""
        self._events_max = events_max
        self._ranges: dict[tuple[int, int], list[Ranked]] = {}
        """By epoch and partition, the oldest first, each more than twice as large as the one behind it, up to _LARGE."""
        self._events = 0

    def __len__(self) -> int:
        return self._events

    def add(self, decided: Decided) -> None:
        """Of a range that C has taken: stored, announced and committed. One that is too large by itself is not kept."""
        if not 0 < len(decided.admitted) <= self._events_max:
            return
        ranges = self._ranges.setdefault((decided.span.epoch, decided.span.partition), [])
        ranges.append(replace(decided.by_hash, rows=_of_claims(decided.admitted)))
        self._events += len(decided.admitted)
        while len(ranges) > 1 and _belong_together(*ranges[-2:]):
            ranges[-2:] = [Ranked.of(joined([one.rows for one in ranges[-2:]]))]
        while self._events > self._events_max:
            largest = max(self._ranges, key=lambda lane: sum(map(len, self._ranges[lane])))
            self._events -= len(self._ranges[largest].pop(0))

    def of(self, epoch: int, partition: int) -> Sequence[Ranked]:
        """What is at hand of one partition."""
        return self._ranges.get((epoch, partition), ())

    def claims(self, hashes: Hashes) -> dict[bytes, Claim]:
        """The admitted rows of these hashes that are at hand, by full key. Each of the hashes stands once."""
        found: dict[bytes, Claim] = {}
        for (epoch, partition), ranges in self._ranges.items():
            for one in ranges:
                found |= claims_of(epoch, partition, one.rows, one.find(hashes))
        return found


_LARGE = 16_384
"""Ranges are joined up to so many rows, so that looking into all of them costs little however small they came."""


def _belong_together(older: Ranked, newer: Ranked) -> bool:
    return len(older) <= 2 * len(newer) and len(older) + len(newer) <= _LARGE


def _of_claims(columns: Columns) -> Columns:
    """Without the columns that no claim has."""
    none = NO_EVENTS
    return replace(
        columns,
        record=none.record,
        offset=columns.offset.copy(),  # it may be a part of all the offsets that were read at once
        ingested_ms=none.ingested_ms,
        source_service=none.source_service,
        source_entity_id=none.source_entity_id,
        usage_type=none.usage_type,
        occurred_ms=none.occurred_ms,
        metadata=none.metadata,
        key_murmur2=none.key_murmur2,
    )
