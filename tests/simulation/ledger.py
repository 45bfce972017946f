"""Postgres in memory: epochs, rules, fences and counters, with transactions that are kept or rolled back as a whole.

It stands as the aggregator's connection, and its methods where the aggregator calls `store.fences`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from metering.counters import Sums
from meterline_schemas.delta import Figures
from store.epochs import ENDED, Epoch
from store.fences import Fence
from tests.simulation.violation import Violation


class Ledger:
    closed = False

    def __init__(self, starts: Sequence[int]) -> None:
        self.epochs: list[Epoch] = []
        self.fences: dict[tuple[int, int], Fence] = {}
        self.counters: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.repairs = 0
        self.rules_from: dict[int, dict[int, list[tuple[int, int]]]] = {}
        """Epoch -> partition -> (from_offset, version)."""
        self.forwarded: dict[int, int] = {}
        """Of epoch 1, by partition."""
        self.begin(starts, 1)

    def begin(self, starts: Sequence[int], version: int) -> None:
        """The next epoch, with its fences and rules."""
        number = len(self.epochs) + 1
        self.epochs.append(Epoch(number, f"usage.events.{number}", "cluster", "id", len(starts), tuple(starts), None))
        for partition, start in enumerate(starts):
            self.fences[number, partition] = Fence(number, partition, start, version, Figures())
        self.rules_from[number] = {partition: [(start, version)] for partition, start in enumerate(starts)}

    def end(self, ends: Sequence[int]) -> None:
        """The epoch that goes on ends; forwarding begins there."""
        self.epochs[-1] = replace(self.epochs[-1], ends=tuple(ends))
        self.forwarded = dict(enumerate(ends))

    def rules_changes(self, number: int) -> dict[int, list[tuple[int, int]]]:
        """As the consumer reads them under the shared lock."""
        ends = self.epochs[number - 1].ends
        changes = {partition: list(found) for partition, found in self.rules_from[number].items()}
        for partition, end in enumerate(ends or ()):
            changes[partition] = sorted([*changes[partition], (end, ENDED)])
        return changes

    @contextmanager
    def transaction(self) -> Iterator[None]:
        before = dict(self.fences), dict(self.counters), self.repairs
        try:
            yield
        except BaseException:
            self.fences, self.counters, self.repairs = before
            raise

    def close(self) -> None:
        """The connection's."""


def note_forwarded(ledger: Ledger, _epoch: int, moved: Mapping[int, tuple[int, int]]) -> None:
    ledger.forwarded |= {partition: max(ledger.forwarded[partition], at) for partition, (at, _) in moved.items()}


def lock_fences(ledger: Ledger, keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Fence]:
    return {key: ledger.fences[key] for key in keys if key in ledger.fences}


def move_fence(ledger: Ledger, fence: Fence) -> None:
    known = ledger.fences[fence.epoch, fence.partition]
    if fence.next_offset < known.next_offset:
        raise Violation("I5", f"the fence of partition {fence.partition} moves from {known.next_offset} to {fence.next_offset}")
    ledger.fences[fence.epoch, fence.partition] = fence


def read_fences(ledger: Ledger) -> list[Fence]:
    return list(ledger.fences.values())


def add_sums(ledger: Ledger, sums: Sums) -> None:
    for *key, more, events in zip(*sums.days(), strict=True):
        tenant_id, usage_type, day = key
        quantity, known = ledger.counters.get((tenant_id, usage_type, day), (0, 0))
        ledger.counters[tenant_id, usage_type, day] = quantity + int(more), known + int(events)


def note_repair(ledger: Ledger, fence: Fence, to_offset: int, cause: str) -> None:
    ledger.repairs += 1
