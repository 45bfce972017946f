"""Everything that outlives a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from metering.index import Hashes
from metering.ranges import Claim
from store.event_log import Held, Recomputed
from tests.simulation.event_log import EventLog
from tests.simulation.group import Group
from tests.simulation.ledger import Ledger
from tests.simulation.tables import Tables
from tests.simulation.workload import PARTITIONS


@dataclass
class Stores:
    random: Random
    log: EventLog
    tables: Tables = field(default_factory=Tables)
    deltas: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    group: Group = field(default_factory=Group)
    ledger: Ledger = field(init=False)
    calm: bool = False
    """No store fails and no read lags any more."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.log.starts)

    def _seen(self) -> int | None:
        if self.calm or self.random.random() < 0.75:
            return None
        return int(self.random.random() * (len(self.tables.arrived) + 1))

    # -- reads of ClickHouse, each from a replica that may be behind ----------------------------------------------

    def held_below(self, partition: int, offset: int, add: Callable[[Hashes], object]) -> Held:
        return self.tables.held_below(partition, offset, self._seen(), add)

    def confirm(self, hashes: Hashes) -> dict[bytes, Claim]:
        return self.tables.confirm(hashes, self._seen())

    def recompute(self, partition: int, from_offset: int, to_offset: int) -> Recomputed:
        return self.tables.recompute(partition, from_offset, to_offset, self._seen())

    def close(self) -> None:
        """The client's."""
