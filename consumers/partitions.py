"""What a rebalance takes and gives back: the lanes of the owned partitions, and the thread that stores their cycles.

The client calls `on_assign`, `on_revoke` and `on_lost` from within a poll, on the thread that decides. A rebalance gives
every partition back and takes the new ones anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from confluent_kafka import Consumer, TopicPartition

from consumers.assignment import Assigning
from consumers.deciding import Decider
from consumers.following import Following, inherited_of
from consumers.lane import Lane
from consumers.patience import Patience
from consumers.ports import ClickHouseRows, DeltaTopic, GroupOffsets
from consumers.reads import Reads
from consumers.recognising import recogniser
from consumers.shelf import Shelf
from consumers.storing import Storer, committed_at
from meterline_schemas.types import Epoch
from runtime import clickhouse, kafka
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.epochs import Epoch as LogEpoch

logger = logging.getLogger(__name__)


class Partitions:
    """The partitions of the epoch in hand that this process owns now. `decider` and `storer` are None while it owns none."""

    def __init__(self, settings: Settings, consumer: Consumer, following: Following, reads: Reads, patience: Patience) -> None:
        self._settings, self._consumer, self._following = settings, consumer, following
        self._reads, self._patience = reads, patience
        self._shelf = Shelf(settings.data_dir / "index", settings.index_memory_bytes_max)
        self.decider: Decider | None = None
        self.storer: Storer | None = None
        self.taking = False
        """While partitions are being taken: indexes are built."""

    @property
    def epoch(self) -> LogEpoch:
        """The epoch in hand."""
        return self._following.epoch

    def lanes(self) -> Iterable[Lane]:
        return self.decider.lanes.values() if self.decider is not None else ()

    def lane(self, partition: int) -> Lane | None:
        return self.decider.lanes.get(partition) if self.decider is not None else None

    def serve(self) -> None:
        """Between two polls: what the storing thread wants of the group."""
        if self.storer is not None:
            self.storer.serve()

    def storing(self) -> bool:
        """Whether another cycle would only wait for the one that is being stored."""
        return self.storer is not None and self.storer.busy

    def take_up(self) -> None:
        """Joins the group for the epoch in hand. Of the one before it, if there was one, everything is committed."""
        self._give_up_lanes()
        self._reads.check_topic(self.epoch)
        self._consumer.subscribe([self.epoch.topic], on_assign=self.on_assign, on_revoke=self.on_revoke, on_lost=self.on_lost)

    # -- rebalances ----------------------------------------------------------------------------------------------

    def on_assign(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        self._give_up_lanes()
        if not parts:
            return
        self.taking = True
        try:
            self._take(consumer, parts)
        finally:
            self.taking = False

    def _take(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        epoch = self.epoch
        self._reads.check_topic(epoch)
        offsets = GroupOffsets(consumer, epoch.topic)
        assigning = Assigning(
            epoch=Epoch(epoch.epoch),
            partitions=epoch.partitions,
            offsets=offsets,
            fences=lambda: self._reads.fences(epoch),
            clickhouse=lambda: clickhouse.client(self._settings),
            log_starts=lambda: self._reads.log_starts(epoch),
            patience=self._patience,
            inherited=inherited_of(self._following.older),
            keep=self._shelf.keep,
        )
        lanes = assigning.lanes(part.partition for part in parts)
        recognise = recogniser(self._settings)
        delta_bytes_max = self._reads.delta_bytes_max(self._settings)
        self.decider = Decider(
            lanes,
            epoch.partitions,
            delta_bytes_max,
            self._reads.confirm,
            self.serve,
            recognise,
            self._settings.recent_events_max,
        )
        self.storer = Storer(
            ClickHouseRows(lambda: clickhouse.client(self._settings)),
            DeltaTopic(lambda: kafka.producer(self._settings), self._settings.topic_deltas),
            offsets,
            self._settings.retry_give_up_s,
            time.monotonic,
            {p: committed_at(lane.epoch, lane.next_offset, lane.rules_version, lane.figures) for p, lane in lanes.items()},
        )
        self.storer.start()
        consumer.assign([TopicPartition(epoch.topic, lane.partition, lane.next_offset) for lane in lanes.values()])

    def on_revoke(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        # The member still owns the partitions while this runs: what waits may be finished and committed.
        if self.storer is not None and not self.storer.finish(self._settings.clickhouse_timeout_s):
            logger.warning("partitions given back with a cycle under way; the next owner repeats it")
        self._give_up_lanes()

    def on_lost(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        # Another member owns them already: no commit may follow.
        self._give_up_lanes()

    def _give_up_lanes(self) -> None:
        """Drops C and P. Raises what ended the storing thread, or MeterlineExit when it does not end."""
        storer, self.storer, self.decider = self.storer, None, None
        if storer is None:
            return
        within_s = self._settings.clickhouse_timeout_s + 15
        if not storer.abandon(within_s):
            raise MeterlineExit(Exit.OWNERSHIP_LOST, f"the storing thread did not stop within {within_s:g} s of a rebalance")
        storer.check()

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """A graceful stop: what was decided is stored and committed, as far as the time suffices."""
        if self.storer is None:
            return
        if not self.storer.finish(self._settings.stop_within_s * 3 / 5):
            logger.warning("stopped with a cycle under way; it will be repeated by the next owner")
        self.storer.check()

    def drop(self) -> bool:
        """The way out after anything: commits nothing more. False when a call of the storing thread is still under way."""
        storer, self.storer, self.decider = self.storer, None, None
        return storer is None or storer.abandon(self._settings.stop_within_s / 5)
