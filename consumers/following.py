"""From epoch to epoch: which one is decided now, and when the next one's turn comes.

Nothing of an epoch is decided before every partition of each older one has committed its end: the index of a new epoch's
partition is built from ClickHouse, and must hold every key that was ever admitted before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consumers.assignment import Inherited, start_of
from meterline_schemas.delta import Figures
from meterline_schemas.types import Epoch as EpochNumber
from meterline_schemas.types import Partition
from store.epochs import Epoch
from store.fences import Fence

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5


class Log(Protocol):
    """Where epochs and positions are read. Every method blocks while its store is away, and may raise MeterlineExit."""

    def epochs(self) -> list[Epoch]:
        """Every epoch, oldest first; one at least."""

    def committed(self, epoch: Epoch) -> Mapping[int, tuple[int, str]]:
        """The group's (offset, metadata) by partition."""

    def fences(self, epoch: Epoch) -> list[Fence]:
        """The fence of every partition."""


@dataclass(frozen=True)
class Decided:
    """An epoch that has been decided to its end, with the figures of each partition there."""

    epoch: Epoch
    figures: tuple[Figures, ...]


def decided_to_its_end(epoch: Epoch, committed: Mapping[int, tuple[int, str]], fences: Iterable[Fence]) -> Decided | None:
    """None while a partition has not come to the epoch's end, or the epoch goes on. Pure.

    A partition has come there by its committed offset, with matching metadata; without that by its fence: rows are stored
    before either moves, and the group's offsets of a topic that nobody reads any more expire. One that was rewound, after a
    restore, has not: it is decided again.
    """
    if epoch.ends is None:
        return None
    figures = []
    for fence in sorted(fences, key=lambda fence: fence.partition):
        end = epoch.ends[fence.partition]
        at = start_of(epoch.epoch, committed.get(fence.partition), fence)
        if at.offset != end:
            return None
        figures.append(at.figures)
    return Decided(epoch, tuple(figures))


def inherited_of(older: Iterable[Decided]) -> list[Inherited]:
    """Every partition of the older epochs, with what must be shown of it before a newer one is taken."""
    return [
        Inherited(EpochNumber(decided.epoch.epoch), Partition(p), start, end, figures)
        for decided in older
        for p, (start, end, figures) in enumerate(
            zip(decided.epoch.starts, decided.epoch.ends or (), decided.figures, strict=True)
        )
    ]


class Following:
    """Knows the epoch in hand and those before it. For the deciding thread; `clock` is in seconds."""

    def __init__(self, log: Log, clock: Callable[[], float]) -> None:
        self._log, self._clock = log, clock
        self.older: tuple[Decided, ...] = ()
        """Every epoch before the one in hand."""
        self.epoch = self._oldest_undecided(log.epochs())
        self._look_at = clock() + LOOK_EVERY_S

    def moved_on(self) -> bool:
        """Looks from time to time; True when `epoch` has become another, to be taken up from its start."""
        if self._clock() < self._look_at:
            return False
        self._look_at = self._clock() + LOOK_EVERY_S
        epochs = self._log.epochs()
        if epochs[-1].epoch == self.epoch.epoch:
            return False
        before, self.epoch = self.epoch, self._oldest_undecided(epochs)
        if self.epoch.epoch == before.epoch:
            return False
        logger.info(
            "an epoch is decided to its end; the next one is taken up",
            extra={"epoch": self.epoch.epoch, "topic": self.epoch.topic},
        )
        return True

    def _oldest_undecided(self, epochs: Sequence[Epoch]) -> Epoch:
        known = {decided.epoch.epoch for decided in self.older}
        for epoch in epochs:
            if epoch.epoch in known:
                continue
            if epoch.ends is None:
                return epoch
            decided = decided_to_its_end(epoch, self._log.committed(epoch), self._log.fences(epoch))
            if decided is None:
                return epoch
            self.older += (decided,)
        raise ValueError("the newest epoch has no end")
