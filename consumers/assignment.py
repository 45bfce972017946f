"""Taking a partition: from which position, with which figures, knowing which keys.

1. Read the committed offset ONCE, with its metadata; without matching metadata start from the fence.
2. Read from ClickHouse the keys below exactly that position, and those that older epochs have left to the partition;
   both must match the figures there.
3. The caller assigns itself explicitly at that position.

A mismatch in 2 is a lagging replica or a restored backup, which would admit duplicates: wait, then leave.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from clickhouse_connect.driver.client import Client

from consumers.lane import Lane
from consumers.patience import Patience, Retriable
from consumers.ports import CLICKHOUSE_AWAY, GroupOffsets
from metering.index import CommittedIndex, Keeper, in_memory
from meterline_schemas.delta import HASH_MODULUS, Figures, parse_commit
from meterline_schemas.types import Epoch, Offset, Partition
from runtime.exits import Exit, MeterlineExit
from store import event_log
from store.fences import Fence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The position to go on from, and the rules version and cumulative figures there."""

    offset: Offset
    rules_version: int
    figures: Figures


def start_of(epoch: int, committed: tuple[int, str] | None, fence: Fence) -> Start:
    """The committed position when its metadata is about it, else the fence's. Pure."""
    if committed is not None:
        offset, metadata = committed
        try:
            note = parse_commit(metadata)
        except ValueError:
            note = None
        if note is not None and (note.epoch, note.offset) == (epoch, offset):
            return Start(note.offset, note.rules_version, note.figures)
        logger.warning(
            "the committed offset has no matching metadata; starting from the fence",
            extra={"partition": fence.partition, "committed": offset, "fence": fence.next_offset},
        )
    return Start(Offset(fence.next_offset), fence.rules_version, fence.figures)


@dataclass(frozen=True)
class Inherited:
    """[start, end) of a partition of an older epoch, with the figures at its end: its keys are known to the newer ones."""

    epoch: Epoch
    partition: Partition
    start: int
    end: int
    figures: Figures


@dataclass
class Assigning:
    """Builds lanes, waiting for the stores as long as `patience` goes."""

    epoch: Epoch
    partitions: int
    offsets: GroupOffsets
    fences: Callable[[], list[Fence]]
    clickhouse: Callable[[], Client]
    log_starts: Callable[[], list[int]]
    patience: Patience
    inherited: Sequence[Inherited] = ()
    keep: Keeper = in_memory

    def lanes(self, partitions: Iterable[int]) -> dict[int, Lane]:
        """A lane for each partition, built anew. Blocks while a store is away."""
        wanted = sorted(partitions)
        committed = self.patience.until_done("kafka", lambda: self.offsets.committed_notes(wanted), ())
        fences = {fence.partition: fence for fence in self.fences()}
        starts = self.patience.until_done("kafka", self.log_starts, ())
        inherited = self.patience.until_done(
            "clickhouse", lambda: self._inherited_keys(wanted), CLICKHOUSE_AWAY, Exit.INDEX_MISMATCH
        )
        lanes = {}
        for partition in wanted:
            start = start_of(self.epoch, committed.get(partition), fences[partition])
            if start.offset < starts[partition]:
                raise MeterlineExit(
                    Exit.LOG_TRUNCATED,
                    f"partition {partition} is to go on from {start.offset}, but the log starts at {starts[partition]}: records "
                    "were deleted before they were read. Raise METERLINE_EVENTS_KEEP_DAYS; docs/operations.md, 'Log truncated'",
                )
            lanes[partition] = self._lane(partition, start, inherited.pop(partition))
        return lanes

    def _inherited_keys(self, wanted: Sequence[int]) -> dict[int, CommittedIndex]:
        """An index for each partition, with what older epochs have left to it.

        Raises Retriable while ClickHouse does not show all of their rows.
        Their keys lay in partitions of other numbers, so every row is read, and every partition's figures are compared with
        what that very read has shown.
        """
        found = {partition: CommittedIndex(keep=self.keep) for partition in wanted}
        client = self.clickhouse()
        try:
            for older in self.inherited:
                rows = hash_sum = 0
                for keys in event_log.keys_between(client, older.epoch, older.partition, older.start, older.end):
                    rows += len(keys.hashes)
                    hash_sum += int(keys.row_hashes.sum(dtype=np.uint64))
                    slots = (keys.murmurs & np.uint32(0x7FFFFFFF)) % np.uint32(self.partitions)
                    for partition, index in found.items():
                        index.add(keys.hashes[slots == partition])
                if (rows, hash_sum % HASH_MODULUS) != (older.figures.admitted, older.figures.hash_sum):
                    raise Retriable(
                        f"ClickHouse shows {rows} rows of epoch {older.epoch} partition {older.partition}, "
                        f"the figures at its end say {older.figures.admitted}, or their hashes differ"
                    )
        finally:
            client.close()
        return found

    def _lane(self, partition: int, start: Start, inherited: CommittedIndex) -> Lane:
        def rebuilt() -> CommittedIndex:
            index = inherited.copy()
            client = self.clickhouse()
            try:
                found = event_log.held_below(client, self.epoch, partition, start.offset, index.add)
            finally:
                client.close()
            if not found.matches(start.figures):
                raise Retriable(
                    f"ClickHouse holds {found.admitted} rows of partition {partition} below {start.offset} "
                    f"(hash sum {found.hash_sum}), the committed figures say {start.figures.admitted} ({start.figures.hash_sum})"
                )
            return index

        index = self.patience.until_done("clickhouse", rebuilt, CLICKHOUSE_AWAY, Exit.INDEX_MISMATCH)
        index.settle()
        logger.info(
            "partition taken",
            extra={
                "partition": partition,
                "offset": start.offset,
                "keys": len(index),
                "epoch": self.epoch,
            },
        )
        return Lane(self.epoch, Partition(partition), start.offset, start.rules_version, start.figures, index)
