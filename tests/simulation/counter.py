"""The aggregator process around the product's `Counting`: deltas arrive in order, again, too early, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from aggregator.counting import Counting, NotExplained, Target
from meterline_schemas.delta import decode_delta, encode_delta, parse_commit
from runtime.exits import MeterlineExit
from tests.simulation.violation import Crash
from tests.simulation.workload import NEXT_PARTITIONS

if TYPE_CHECKING:
    from tests.simulation.world import World

_BATCH_MAX = 4


class _Stopped:
    """Stands for the process's stop event: a delta that cannot be counted now ends the process, which starts again."""

    def is_set(self) -> bool:
        return True


class Counter:
    def __init__(self, world: World) -> None:
        self.world, self.random = world, world.random
        self.positions = [0] * NEXT_PARTITIONS
        stores = cast(Any, world.stores)
        self._counting, self._reconciling = (
            Counting(lambda: stores.ledger, lambda: stores, 60.0, cast(Any, _Stopped())) for _ in range(2)
        )

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.8:
            self._next()
        elif chance < 0.9:
            self._any()
        elif self.world.loses_deltas:
            lanes = list(self.world.stores.ledger.fences)
            self.repair(*lanes[int(self.random.random() * len(lanes))])

    def _next(self) -> None:
        """The next deltas of one or all partitions, in one transaction. A failure reads some of them again later."""
        partitions = self.world.stores.ledger.epochs[-1].partitions
        only = int(self.random.random() * (partitions + 1))
        batch: list[bytes] = []
        ahead = list(self.positions)
        for partition in range(partitions):
            if only not in (partition, partitions):
                continue
            log = self.world.stores.deltas[partition]
            end = min(len(log), ahead[partition] + 1 + int(self.random.random() * _BATCH_MAX))
            for value in log[ahead[partition] : end]:
                if self.world.loses_deltas and self.random.random() < 0.1:
                    self.world.say("a delta is lost", None)
                else:
                    batch.append(value)
            ahead[partition] = end
        if not batch or self._count(batch):
            self.positions = ahead
        if self.random.random() < 0.1:
            self.positions = [int(self.random.random() * (position + 1)) for position in self.positions]

    def _any(self) -> None:
        """A delta out of turn: one of long ago, or one before its time. Or one whose lines are not what it says of them."""
        partition = int(self.random.random() * self.world.stores.ledger.epochs[-1].partitions)
        log = self.world.stores.deltas[partition]
        if not log:
            return
        if self.random.random() < 0.6:
            self._count([log[int(self.random.random() * len(log))]])
            return
        delta = decode_delta(log[min(self.positions[partition], len(log) - 1)])
        if len(delta.lines):
            self.world.say("a delta lacks a line", None)
            self._count([encode_delta(replace(delta, lines=tuple(delta.lines)[1:]))])

    def _count(self, batch: list[bytes]) -> bool:
        repairs = self.world.stores.ledger.repairs
        try:
            self._counting.count(batch)
        except (Crash, MeterlineExit) as error:
            self.world.say(f"counting failed: {error}", None)
            return False
        recomputed = ", recomputed" if self.world.stores.ledger.repairs > repairs else ""
        deltas: object = len(batch)
        if self.world.verbose:
            deltas = [(d.epoch, d.partition, d.from_offset, d.to_offset) for d in map(decode_delta, batch)]
        self.world.say(f"counted {deltas}{recomputed}", None)
        return True

    def repair(self, epoch: int, partition: int) -> None:
        """What the reconciler does for a fence that stands still below the committed offset."""
        committed = self.world.stores.group.committed[epoch].get(partition)
        try:
            note = parse_commit(committed[1]) if committed is not None else None
        except ValueError:
            note = None
        if committed is None or note is None or not note.matches(epoch, committed[0]):
            return
        try:
            repaired = self._reconciling.repair(
                Target(epoch, partition, note.offset, note.rules_version, note.figures), "stood still"
            )
        except (Crash, NotExplained) as error:
            self.world.say(f"not repaired: {error}", None)
        else:
            self.world.say(f"repaired partition {partition} up to {note.offset}: {repaired}", None)

    def drain(self) -> None:
        """Every delta from where the process stands, in order; then, where deltas may be lost, every fence."""
        for partition, log in enumerate(self.world.stores.deltas):
            for value in log[self.positions[partition] :]:
                self._count([value])
            self.positions[partition] = len(log)
        if self.world.loses_deltas:
            for lane in list(self.world.stores.ledger.fences):
                self.repair(*lane)
