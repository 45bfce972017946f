"""What a relay of the simulation of holds works on: a database that it may be cut from, and a broker that may not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from store.outbox import Backlog
from tests.simulation.violation import Crash

if TYPE_CHECKING:
    from tests.simulation.hold_world import HoldWorld


class Connection:
    """The relay's: what it writes is seen when its transaction ends, and not at all when it is killed before."""

    def __init__(self, world: HoldWorld) -> None:
        self.world = world
        self.claimed: list[int] = []
        self.writes: list[Callable[[], None]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            yield
            if not self.world.calm and self.writes and self.world.random.random() < 0.1:
                raise Crash("before its commit")
            for write in self.writes:
                write()
        finally:
            self.writes = []
            self.world.claimed.difference_update(self.claimed)


class Broker:
    """Takes a record, or not, and says so, or not."""

    def __init__(self, world: HoldWorld) -> None:
        self.world = world
        self._waiting: list[tuple[int, int, Callable[[Any, Any], None]]] = []

    def produce(self, topic: str, value: bytes, _key: bytes, *, headers: object, on_delivery: Callable[[Any, Any], None]) -> None:
        self._waiting.append((int(topic), int(value), on_delivery))

    def poll(self, _timeout_s: float) -> None:
        self.world.stir()
        epoch, hold_id, answer = self._waiting.pop(0)
        fate = 0.0 if self.world.calm else self.world.random.random()
        partition, offset = self.world.append(epoch, hold_id) if fate < 0.9 else (0, 0)
        error = None if fate < 0.8 else SimpleNamespace(str=lambda: "the schedule says so")
        answer(error, SimpleNamespace(partition=lambda: partition, offset=lambda: offset))

    def flush(self, _timeout_s: float) -> None: ...


def nothing_waits(_: object) -> Backlog:
    """Stands for the relay's look at its backlog."""
    return Backlog(0, 0)
