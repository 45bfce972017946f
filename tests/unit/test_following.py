"""An epoch is taken up when every partition of each older one has come to its end, and not before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from consumers.following import Following, decided_to_its_end, inherited_of
from meterline_schemas.delta import Figures, encode_commit
from store.epochs import Epoch
from store.fences import Fence

FIRST = Epoch(1, "usage.events", "c", "t1", 2, (0, 5), None)
ENDED = replace(FIRST, ends=(10, 5))
SECOND = Epoch(2, "usage.events.2", "c", "t2", 3, (0, 0, 0), None)


def note(epoch: int, offset: int, admitted: int) -> tuple[int, str]:
    return offset, encode_commit(epoch, offset, 1, Figures(admitted=admitted))


def fences(*next_offsets: int) -> list[Fence]:
    """In any order, as they may be read."""
    made = [Fence(1, p, at, 1, Figures(invalid=at - FIRST.starts[p])) for p, at in enumerate(next_offsets)]
    return made[::-1]


class Log:
    def __init__(self) -> None:
        self.all = [FIRST]
        self.group: dict[int, tuple[int, str]] = {}
        self.counted = fences(0, 5)
        self.now = 0.0

    def epochs(self) -> list[Epoch]:
        return list(self.all)

    def committed(self, epoch: Epoch) -> Mapping[int, tuple[int, str]]:
        return self.group if epoch.epoch == 1 else {}

    def fences(self, epoch: Epoch) -> list[Fence]:
        return self.counted if epoch.epoch == 1 else []

    def clock(self) -> float:
        self.now += 1
        return self.now


def test_an_epoch_is_left_when_every_partition_has_committed_its_end() -> None:
    log = Log()
    following = Following(log, log.clock)
    assert following.epoch == FIRST
    assert not following.moved_on()
    log.all = [ENDED, SECOND]
    log.group = {0: note(1, 9, 9)}
    assert not following.moved_on(), "partition 0 lacks a record; partition 1 had none"
    assert following.epoch == ENDED, "its end is known from now on"
    log.group = {0: note(1, 10, 10)}
    assert following.moved_on()
    assert following.epoch == SECOND
    assert not following.moved_on()
    assert [(one.partition, one.start, one.end, one.figures.admitted) for one in inherited_of(following.older)] == [
        (0, 0, 10, 10),
        (1, 5, 5, 0),
    ]


def test_a_process_that_starts_goes_to_the_oldest_epoch_that_is_not_decided() -> None:
    log = Log()
    log.all = [ENDED, SECOND]
    assert Following(log, log.clock).epoch == ENDED
    log.group = {0: note(1, 10, 10)}
    assert Following(log, log.clock).epoch == SECOND


@pytest.mark.parametrize(
    ("committed", "counted", "whole"),
    [
        ({}, (10, 5), True),  # the group's offsets of a topic that nobody reads expire
        ({0: (10, "")}, (10, 5), True),  # without a note the fence is what counts
        ({0: (10, "")}, (9, 5), False),
        ({0: note(2, 10, 10)}, (9, 5), False),  # another epoch's note
        ({0: note(1, 4, 4)}, (10, 5), False),  # rewound after a restore: it is decided again
        ({0: note(1, 10, 10)}, (0, 5), True),  # committed, and not counted yet
    ],
)
def test_a_partition_has_come_to_the_end_by_its_note_or_without_one_by_its_fence(
    committed: dict[int, tuple[int, str]], counted: tuple[int, int], whole: bool
) -> None:
    assert (decided_to_its_end(ENDED, committed, fences(*counted)) is not None) is whole


def test_an_epoch_that_goes_on_is_never_decided_to_its_end() -> None:
    assert decided_to_its_end(FIRST, {0: note(1, 10, 10)}, fences(10, 5)) is None
