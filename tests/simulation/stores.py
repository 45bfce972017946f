"""Everything that outlives a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from metering.index import Hashes
from metering.ranges import Claim
from store.event_log import Held, Keys, Recomputed
from tests.simulation.event_log import EventLog
from tests.simulation.group import Group
from tests.simulation.ledger import Ledger
from tests.simulation.tables import Tables
from tests.simulation.workload import NEXT_PARTITIONS


@dataclass
class Stores:
    random: Random
    logs: list[EventLog]
    """By epoch; the last one is the newest."""
    tables: Tables = field(default_factory=Tables)
    deltas: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(NEXT_PARTITIONS)])
    group: Group = field(default_factory=Group)
    ledger: Ledger = field(init=False)
    calm: bool = False
    """No store fails and no read lags any more."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.log.starts)

    @property
    def log(self) -> EventLog:
        """The newest epoch's."""
        return self.logs[-1]

    def _seen(self) -> int | None:
        if self.calm or self.random.random() < 0.75:
            return None
        return int(self.random.random() * (len(self.tables.arrived) + 1))

    # -- reads of ClickHouse, each from a replica that may be behind ----------------------------------------------

    def held_below(self, epoch: int, partition: int, offset: int, add: Callable[[Hashes], object]) -> Held:
        return self.tables.held_below(epoch, partition, offset, self._seen(), add)

    def keys_between(self, epoch: int, partition: int, from_offset: int, to_offset: int) -> Iterator[Keys]:
        yield self.tables.keys_between(epoch, partition, from_offset, to_offset, self._seen())

    def confirm(self, hashes: Hashes) -> dict[bytes, Claim]:
        return self.tables.confirm(hashes, self._seen())

    def recompute(self, epoch: int, partition: int, from_offset: int, to_offset: int) -> Recomputed:
        return self.tables.recompute(epoch, partition, from_offset, to_offset, self._seen())

    def close(self) -> None:
        """The client's."""
