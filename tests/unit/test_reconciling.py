"""A fence that stands still below the committed offset is repaired; one that moves, or has nothing to wait for, is left alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from aggregator import reconciling
from aggregator.counting import Target
from aggregator.reconciling import STALLED_AFTER_S, Reconciler
from meterline_schemas.delta import CommitNote, Figures
from meterline_schemas.types import Epoch, Offset
from store.epochs import Epoch as LogEpoch
from store.fences import Fence
from store.group import GroupPosition


class World:
    """One partition: its fence, the group's note, the clock, and what was repaired."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fence, self.now = 10, 100.0
        self.note: int | None = 20
        self.repaired: list[tuple[int, str]] = []
        self.epoch = LogEpoch(1, "usage.events", "c", "t", 1, (0,), None)
        monkeypatch.setattr(reconciling, "all_epochs", lambda _: [self.epoch])
        monkeypatch.setattr(reconciling, "read_fences", lambda _: [Fence(1, 0, self.fence, 1, Figures(invalid=self.fence))])
        monkeypatch.setattr("aggregator.reconciling.time.monotonic", lambda: self.now)
        connect: Any = lambda: _Connection()  # noqa: E731
        self.reconciler = Reconciler(connect, self._committed, self, threading.Event())  # type: ignore[arg-type]

    def _committed(self, _: object) -> dict[int, GroupPosition]:
        if self.note is None:
            return {0: GroupPosition(99, "of somebody else's", None)}
        return {0: GroupPosition(self.note, "", CommitNote(Epoch(1), Offset(self.note), 1, Figures(invalid=self.note)))}

    def repair(self, target: Target, cause: str) -> bool:
        self.repaired.append((target.to_offset, cause))
        return True

    def look(self, after_s: float = 0.0) -> None:
        self.now += after_s
        self.reconciler.look()


class _Connection:
    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_fence_that_stood_still_for_long_enough_is_moved_to_the_committed_offset(world: World) -> None:
    world.look()
    world.look(STALLED_AFTER_S - 0.1)
    assert world.repaired == []
    world.look(0.2)
    assert world.repaired == [(20, "the fence stood still at 10 below the committed 20")]


def test_a_fence_that_moves_however_slowly_is_left_to_its_deltas(world: World) -> None:
    for _ in range(5):
        world.look(STALLED_AFTER_S - 0.1)
        world.fence += 1
    assert world.repaired == []


def test_a_fence_at_the_committed_offset_or_without_a_trusted_note_is_left_alone(world: World) -> None:
    for note in (10, 9, None):
        world.note = note
        world.look(STALLED_AFTER_S * 2)
        world.look(STALLED_AFTER_S * 2)
    assert world.repaired == []


def test_time_spent_with_nothing_to_count_does_not_count_as_standing_still(world: World) -> None:
    world.note = 10
    world.look()
    world.look(STALLED_AFTER_S * 10)
    world.note = 20
    world.look(0.5)
    assert world.repaired == []


def test_an_epoch_that_has_ended_is_looked_at_until_it_is_counted_to_its_end(world: World) -> None:
    world.epoch = LogEpoch(1, "usage.events", "c", "t", 1, (0,), (20,))
    world.look()
    world.look(STALLED_AFTER_S)
    assert [to for to, _ in world.repaired] == [20]
    world.fence, world.note = 20, 30  # a late commit by a hand: past the end nothing is counted
    world.look(STALLED_AFTER_S)
    world.look(STALLED_AFTER_S)
    assert len(world.repaired) == 1
