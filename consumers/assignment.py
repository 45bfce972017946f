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

from clickhouse_connect.driver.client import Client

from consumers.lane import Lane
from consumers.patience import Patience, Retriable
from consumers.ports import CLICKHOUSE_AWAY, GroupOffsets
from metering.index import CommittedIndex
from meterline_schemas.delta import Figures, parse_commit
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

    def lanes(self, partitions: Iterable[int]) -> dict[int, Lane]:
        """A lane for each partition, built anew. Blocks while a store is away."""
        wanted = sorted(partitions)
        committed = self.patience.until_done("kafka", lambda: self.offsets.committed_notes(wanted), ())
        fences = {fence.partition: fence for fence in self.fences()}
        starts = self.patience.until_done("kafka", self.log_starts, ())
        self.patience.until_done("clickhouse", self._check_inherited, CLICKHOUSE_AWAY, Exit.INDEX_MISMATCH)
        lanes = {}
        for partition in wanted:
            start = start_of(self.epoch, committed.get(partition), fences[partition])
            if start.offset < starts[partition]:
                raise MeterlineExit(
                    Exit.LOG_TRUNCATED,
                    f"partition {partition} is to go on from {start.offset}, but the log starts at {starts[partition]}: records "
                    "were deleted before they were read. Raise METERLINE_EVENTS_KEEP_DAYS; docs/operations.md, 'Log truncated'",
                )
            lanes[partition] = self._lane(partition, start)
        return lanes

    def _check_inherited(self) -> None:
        """Raises Retriable while ClickHouse does not show every row of the older epochs: any partition may have left us keys."""
        client = self.clickhouse()
        try:
            for older in self.inherited:
                held = event_log.rows_between(client, older.epoch, older.partition, older.start, older.end)
                if held != (older.figures.admitted, older.figures.hash_sum):
                    raise Retriable(
                        f"ClickHouse shows {held[0]} rows of epoch {older.epoch} partition {older.partition} (hash sum"
                        f" {held[1]}), "
                        f"the figures at its end say {older.figures.admitted} ({older.figures.hash_sum})"
                    )
        finally:
            client.close()

    def _lane(self, partition: int, start: Start) -> Lane:
        def held() -> event_log.Held:
            client = self.clickhouse()
            try:
                found = event_log.held_below(client, self.epoch, partition, self.partitions, start.offset)
            finally:
                client.close()
            if not found.matches(start.figures):
                raise Retriable(
                    f"ClickHouse holds {found.admitted} rows of partition {partition} below {start.offset} "
                    f"(hash sum {found.hash_sum}), the committed figures say {start.figures.admitted} ({start.figures.hash_sum})"
                )
            return found

        found = self.patience.until_done("clickhouse", held, CLICKHOUSE_AWAY, Exit.INDEX_MISMATCH)
        logger.info(
            "partition taken",
            extra={"partition": partition, "offset": start.offset, "keys": len(found.hashes), "epoch": self.epoch},
        )
        index = CommittedIndex(found.hashes)
        return Lane(self.epoch, Partition(partition), start.offset, start.rules_version, start.figures, index)
