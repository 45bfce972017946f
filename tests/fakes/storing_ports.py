"""The storing thread's three neighbours, in memory: each can be told to fail, to wait, or to be another's."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from metering.ranges import Decided


class Steps:
    """What happened, in order; the three fakes share one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.taken: list[tuple[str, Any]] = []

    def add(self, step: str, what: Any) -> None:
        with self._changed:
            self.taken.append((step, what))
            self._changed.notify_all()

    def names(self) -> list[str]:
        return [step for step, _ in self.taken]

    def wait_for_any(self, within_s: float) -> None:
        """Returns at the next step, or when the time is over."""
        with self._changed:
            self._changed.wait(within_s)

    def wait_for(self, step: str, times: int = 1, within_s: float = 10.0) -> None:
        """Returns once the step was taken so often; fails the test when it is not in time."""
        with self._changed:
            enough = self._changed.wait_for(lambda: self.names().count(step) >= times, within_s)
        assert enough, f"{step} was not taken {times} times within {within_s} s: {self.names()}"


class Port:
    """Counts its calls, raises what it was given for the first of them, and waits at a gate while that is shut."""

    def __init__(self, steps: Steps, name: str, failures: Iterable[BaseException] = ()) -> None:
        self._steps, self._name, self._failures = steps, name, list(failures)
        self.gate = threading.Event()
        self.gate.set()

    def _called(self, what: Any) -> None:
        self._steps.add(f"{self._name}?", what)
        assert self.gate.wait(30.0), "a test left the gate shut"
        if self._failures:
            raise self._failures.pop(0)
        self._steps.add(self._name, what)


class FakeRows(Port):
    def __init__(self, steps: Steps, failures: Iterable[BaseException] = ()) -> None:
        super().__init__(steps, "store", failures)

    def insert(self, admitted: pa.Table, rejects: pa.Table) -> None:
        self._called((admitted, rejects))


class FakeDeltas(Port):
    def __init__(self, steps: Steps, failures: Iterable[BaseException] = ()) -> None:
        super().__init__(steps, "announce", failures)

    def announce(self, ranges: Sequence[Decided]) -> None:
        self._called(tuple(ranges))


class FakeOffsets(Port):
    """`group` is what the consumer group holds: partition -> (offset, metadata)."""

    def __init__(self, steps: Steps, failures: Iterable[BaseException] = ()) -> None:
        super().__init__(steps, "commit", failures)
        self.group: dict[int, tuple[int, str]] = {}

    def commit(self, positions: Sequence[tuple[int, int, str]]) -> None:
        self._called(tuple(positions))
        self.group.update({partition: (offset, metadata) for partition, offset, metadata in positions})

    def committed_notes(self, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        return {partition: self.group[partition] for partition in partitions if partition in self.group}
