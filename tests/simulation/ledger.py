"""Postgres in memory: fences, counters and rules_from, with transactions that are kept or rolled back as a whole.

It stands as the aggregator's connection, and its methods where the aggregator calls `store.fences`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from meterline_schemas.delta import DeltaLine, Figures
from store.fences import Fence
from tests.simulation.violation import Violation


class Ledger:
    closed = False

    def __init__(self, starts: Sequence[int]) -> None:
        self.fences = {(1, partition): Fence(1, partition, start, 1, Figures()) for partition, start in enumerate(starts)}
        self.counters: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.repairs = 0
        self.rules_from: dict[int, list[tuple[int, int]]] = {partition: [(start, 1)] for partition, start in enumerate(starts)}

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


def lock_fences(ledger: Ledger, keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Fence]:
    return {key: ledger.fences[key] for key in keys if key in ledger.fences}


def move_fence(ledger: Ledger, fence: Fence) -> None:
    known = ledger.fences[fence.epoch, fence.partition]
    if fence.next_offset < known.next_offset:
        raise Violation("I5", f"the fence of partition {fence.partition} moves from {known.next_offset} to {fence.next_offset}")
    ledger.fences[fence.epoch, fence.partition] = fence


def add_lines(ledger: Ledger, lines: Sequence[DeltaLine]) -> None:
    for line in lines:
        key = (line.tenant_id, line.usage_type, line.day)
        quantity, events = ledger.counters.get(key, (0, 0))
        ledger.counters[key] = quantity + line.quantity, events + line.events


def note_repair(ledger: Ledger, fence: Fence, to_offset: int, cause: str) -> None:
    ledger.repairs += 1
