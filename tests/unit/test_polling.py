"""How much is read before it is decided: a cycle is bounded in records, in bytes and in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, Message

from consumers import polling
from consumers.lane import Lane
from consumers.partitions import Partitions
from consumers.polling import LogReader
from metering.index import CommittedIndex
from meterline_schemas.delta import Figures
from meterline_schemas.types import Epoch, Offset, Partition
from runtime.settings import Settings, load_settings

VALUE = b"x" * 1_000
AT_ONCE = 100
"""Records that the client hands over in one call, whatever room there is for."""


class EndlessLog:
    """A client whose backlog never ends."""

    def __init__(self) -> None:
        self.read = 0

    def poll(self, timeout_s: float) -> Message:
        return self.consume(1, timeout_s)[0]

    def consume(self, most: int, timeout_s: float) -> Sequence[Message]:
        first, self.read = self.read, self.read + min(most, AT_ONCE)
        return [
            Message(topic="t", partition=0, offset=offset, key=b"k", value=VALUE, timestamp=(1, 1_790_100_000_000))
            for offset in range(first, self.read)
        ]


class SilentLog(EndlessLog):
    """One whose records end after the first."""

    def consume(self, most: int, timeout_s: float) -> Sequence[Message]:
        return [] if self.read else super().consume(most, timeout_s)

    def poll(self, timeout_s: float) -> Any:
        return None if self.read else super().poll(timeout_s)


class OnePartition:
    def __init__(self, is_storing: bool = False) -> None:
        self.is_storing = is_storing
        self.one = Lane(Epoch(1), Partition(0), Offset(0), 1, Figures(), CommittedIndex())

    def lanes(self) -> list[Lane]:
        return [self.one]

    def lane(self, partition: int) -> Lane:
        return self.one

    def serve(self) -> None:
        """No commit waits."""

    def storing(self) -> bool:
        return self.is_storing


def gathered(log: EndlessLog, settings: Settings, is_storing: bool = False) -> Lane:
    partitions = OnePartition(is_storing)
    LogReader(settings, cast(Consumer, log), cast(Partitions, partitions), threading.Event()).gather()
    return partitions.one


@pytest.mark.parametrize("most", [1, 99, 250, 1_000])
def test_a_cycle_holds_no_more_records_than_it_may_however_many_wait(most: int) -> None:
    assert gathered(EndlessLog(), load_settings({"METERLINE_RANGE_EVENTS_MAX": str(most)})).waiting == most


def test_a_cycle_that_has_its_bytes_takes_no_more_than_the_client_hands_over_at_once() -> None:
    most = 1 << 18
    lane = gathered(EndlessLog(), load_settings({"METERLINE_RANGE_BYTES_MAX": str(most)}))
    assert most <= lane.waiting_bytes < most + AT_ONCE * (len(VALUE) + 100)


@pytest.mark.parametrize(("is_storing", "small", "window_s"), [(False, 2, 0.04), (True, 2, 0.16), (True, 1, 0.04)])
def test_a_cycle_ends_with_its_window_and_a_small_one_while_another_is_stored_with_four(
    monkeypatch: pytest.MonkeyPatch, is_storing: bool, small: int, window_s: float
) -> None:
    monkeypatch.setattr(polling, "_SMALL_CYCLE", small)
    now_s = 0.0

    def passing() -> float:
        nonlocal now_s
        now_s += 0.004
        return now_s

    monkeypatch.setattr(time, "monotonic", passing)
    assert gathered(SilentLog(), load_settings({"METERLINE_RANGE_WINDOW_MS": "40"}), is_storing).waiting == 1
    assert window_s < now_s < window_s + 0.02


def test_a_full_cycle_does_not_wait_for_the_one_that_is_stored() -> None:
    assert gathered(EndlessLog(), load_settings({"METERLINE_RANGE_EVENTS_MAX": "250"}), is_storing=True).waiting == 250
