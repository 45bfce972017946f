"""A fence that stands still below the committed offset: its delta was passed over, so its range is counted from ClickHouse.

Faust acknowledges what it skips, and a deltas topic forgets by age; neither may leave a range uncounted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException
from urllib3.exceptions import HTTPError

from aggregator.counting import Counting, NotExplained, Target
from runtime import metrics
from store.epochs import Epoch, all_epochs
from store.fences import Fence, read_fences
from store.group import GroupPosition

logger = logging.getLogger(__name__)

STALLED_AFTER_S = 5.0
_LOOK_EVERY_S = 1.0


class Reconciler:
    """Looks once a second; repairs a fence that has not moved for STALLED_AFTER_S while the group is ahead of it."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        committed: Callable[[Epoch], Mapping[int, GroupPosition]],
        counting: Counting,
        stop: threading.Event,
    ) -> None:
        self._connect, self._committed, self._counting = connect, committed, counting
        self._stop = stop
        self._stood_since: dict[tuple[int, int], tuple[int, float]] = {}
        self.rounds = 0
        """For the watchdog: it goes on whatever is away."""

    def run(self) -> None:
        """Blocks until `stop` is set; outlives absent stores."""
        while not self._stop.wait(_LOOK_EVERY_S):
            try:
                self.look()
            except (psycopg.Error, KafkaException, ClickHouseError, HTTPError, OSError, NotExplained) as error:
                metrics.RETRIES.labels("aggregate", "reconciler").inc()
                logger.warning("a stalled fence was not repaired yet", extra={"problem": str(error)})
            self.rounds += 1

    def look(self) -> None:
        """One look at every partition that is not counted to its epoch's end."""
        with self._connect() as connection:
            epochs, fences = all_epochs(connection), read_fences(connection)
        for epoch in epochs:
            of_it = [fence for fence in fences if fence.epoch == epoch.epoch]
            if epoch.ends is None or any(fence.next_offset < epoch.ends[fence.partition] for fence in of_it):
                self._look_at(of_it, self._committed(epoch))

    def _look_at(self, fences: Iterable[Fence], group: Mapping[int, GroupPosition]) -> None:
        now = time.monotonic()
        for fence in fences:
            lane = (fence.epoch, fence.partition)
            position = group.get(fence.partition)
            note = position.note if position is not None else None
            at, since = self._stood_since.get(lane, (-1, now))
            if note is None or note.offset <= fence.next_offset or at != fence.next_offset:
                self._stood_since[lane] = (fence.next_offset, now)
            elif now - since >= STALLED_AFTER_S:
                target = Target(fence.epoch, fence.partition, note.offset, note.rules_version, note.figures)
                self._counting.repair(target, f"the fence stood still at {fence.next_offset} below the committed {note.offset}")
