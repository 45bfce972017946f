"""The storing thread, one step at a time.

The product's `Storer` takes a cycle through its steps against ports that write down what it asked for, and that answer
as the schedule wants: done, done in part, done but not acknowledged, late. What was written down is then carried out,
step by step, between the steps of everybody else. So the order of the steps and what is repeated are the product's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar, cast

from consumers.patience import Retriable
from consumers.storing import Committed, Cycle, Storer
from metering.ranges import Decided
from meterline_schemas.delta import encode_delta
from runtime.exits import MeterlineExit
from tests.simulation.group import Position
from tests.simulation.stores import Stores
from tests.simulation.tables import RejectRow, Row

T = TypeVar("T")
Effect = Callable[[], None]

_GIVE_UP_S = 60.0


class Step(NamedTuple):
    """One thing that the storing thread does to the world. `kind` is "fail" where it gives up."""

    kind: str
    effect: Effect
    late: bool = False
    """Asked for, and carried out at some later time."""


class _NeverWaits:
    """Stands for the thread's event: nobody waits in a simulation."""

    def is_set(self) -> bool:
        return False

    def wait(self, _seconds: float) -> None: ...


class _Ports:
    """ClickHouse, the deltas topic and the group, as the storing thread sees them: RowStore, DeltaLog and Offsets."""

    def __init__(self, stores: Stores, random: Random, epoch: int) -> None:
        self.stores, self.random, self.epoch = stores, random, epoch
        self.steps: deque[Step] = deque()
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def insert(self, admitted: Sequence[Row], rejects: Sequence[RejectRow]) -> None:
        tables, draw = self.stores.tables, self.random.random

        def some() -> Effect:
            part = [row for row in admitted if draw() < 0.5]
            return lambda: tables.insert(part, ())

        self._answer("insert", lambda: tables.insert(admitted, rejects), some)

    def announce(self, ranges: Sequence[Decided]) -> None:
        deltas = [(decided.span.partition, encode_delta(decided.delta)) for decided in ranges]
        logs = self.stores.deltas

        def write(some: Iterable[tuple[int, bytes]]) -> None:
            for partition, value in some:
                logs[partition].append(value)

        def part() -> Effect:
            few = deltas[: int(self.random.random() * (len(deltas) + 1))]
            return lambda: write(few)

        self._answer("announce", lambda: write(deltas), part)

    def commit(self, positions: Sequence[Position]) -> None:
        group = self.stores.group
        self._answer("commit", lambda: group.land(self.epoch, positions), lambda: lambda: None)

    def committed_notes(self, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        return {p: found for p, found in self.stores.group.committed[self.epoch].items() if p in partitions}

    def _answer(self, kind: str, whole: Effect, part: Callable[[], Effect]) -> None:
        fate = 0.0 if self.stores.calm else self.random.random()
        if fate < 0.8:
            self.steps.append(Step(kind, whole))
            return
        if fate < 0.86:
            self.steps.append(Step(kind, part()))
        elif fate < 0.92:
            self.steps.append(Step(kind, whole))
        elif fate < 0.97:
            self.steps.append(Step(kind, whole if self.random.random() < 0.7 else part(), late=True))
        else:
            self.steps.append(Step(kind, part()))
            self.now += 2 * _GIVE_UP_S
        raise Retriable("the schedule says so")


class SteppedStorer(Storer):
    """Never started: its thread's work is asked for here, and done by whoever takes the steps."""

    def __init__(self, stores: Stores, random: Random, taken: Mapping[int, Committed], epoch: int) -> None:
        self.ports = _Ports(stores, random, epoch)
        ports = cast(Any, self.ports)
        super().__init__(ports, ports, ports, _GIVE_UP_S, self.ports.clock, taken)
        self._abandoned = cast(Any, _NeverWaits())

    def _by_the_polling_thread(self, call: Callable[[], T]) -> T:
        return call()

    def through(self, cycle: Cycle) -> deque[Step]:
        """The steps that take a cycle to its commit; the last is "fail" where the thread gives up."""
        return self._asked(lambda: self._through(cycle))

    def idle(self) -> deque[Step]:
        """What an idle thread does: it puts right a group offset that was lowered."""
        return self._asked(self._restore_lowered_offsets)

    def _asked(self, work: Effect) -> deque[Step]:
        steps = self.ports.steps = deque()
        try:
            work()
        except MeterlineExit:
            steps.append(Step("fail", lambda: None))
        return steps
