"""The edge follows the log to its next epoch, and `wait=counted` does not wait where nothing is ever counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from entitlements.counted import Fences
from entitlements.log_epochs import LOOK_EVERY_S, LogEpochs
from entitlements.models import Position
from entitlements.sink import Published
from entitlements.store import Store, StoreAway
from entitlements.waiting import Waiting
from meterline_schemas.draft import EncodedEvent
from meterline_schemas.event import Event
from meterline_schemas.types import Micros
from runtime.settings import Settings

USAGE = EncodedEvent(b"{}", Event("tnt_1", "s", "e", "DEEP", Micros(1), "usage", b"", 0, b"", b"1:s,1:e,4:DEEP,"))


class Log(Store):
    """Epochs and fences from memory."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.epochs: list[tuple[int, str, list[int] | None]] = [(1, "usage.events", None)]
        self.fences: dict[tuple[int, int], int] = {(1, 0): 0}
        self.away = False
        self.looks = 0

    async def rows(self, name: str, sql: bytes, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        if self.away:
            raise StoreAway("away")
        if name == "epochs":
            await asyncio.sleep(0)
            self.looks += 1
            return list(self.epochs)
        assert name == "fences"
        return [(*key, at) for key, at in self.fences.items()]

    def goes_over(self, end: int) -> None:
        self.epochs = [(1, "usage.events", [end]), (2, "usage.events.2", None)]
        self.fences |= {(1, 0): end, (2, 0): 0}


class Sink:
    """Puts what comes to the next place of epoch 2; counted at once."""

    def __init__(self, log: Log) -> None:
        self.log, self.taken = log, 0

    async def open(self) -> None: ...

    async def publish(self, events: Sequence[EncodedEvent], traceparent: str) -> list[Published]:
        first = self.taken
        self.taken += len(events)
        self.log.fences[2, 0] = self.taken
        return [Position(2, 0, offset) for offset in range(first, self.taken)]

    async def problem(self) -> str | None:
        return None

    async def close(self, within_s: float) -> None: ...


def test_the_newest_epoch_is_looked_up_again_after_a_while_and_what_was_known_stands_while_postgres_is_away() -> None:
    async def run() -> None:
        log, now = Log(), [100.0]
        epochs = LogEpochs(log, lambda: now[0])
        log.away = True
        with pytest.raises(StoreAway):
            await epochs.newest()
        log.away = False
        newest = await epochs.newest()
        assert newest is not None
        assert (newest.epoch, newest.topic) == (1, "usage.events")
        log.goes_over(7)
        assert await epochs.newest() == newest
        now[0] += LOOK_EVERY_S
        log.away = True
        assert await epochs.newest() == newest
        now[0] += LOOK_EVERY_S
        log.away = False
        newest = await epochs.newest()
        assert newest is not None
        assert (newest.epoch, newest.topic) == (2, "usage.events.2")
        assert epochs.of_topic("usage.events") == 1
        assert [epochs.is_late(Position(1, 0, offset)) for offset in (6, 7)] == [False, True]

    asyncio.run(run())


def test_who_comes_while_the_first_reading_is_under_way_waits_for_it() -> None:
    async def run() -> None:
        log = Log()
        epochs = LogEpochs(log)
        found = await asyncio.gather(*(epochs.newest() for _ in range(8)))
        assert [one and one.epoch for one in found] == [1] * 8
        assert log.looks == 1

    asyncio.run(run())


def test_an_event_that_was_acknowledged_past_the_end_of_its_epoch_is_published_again_and_then_counted() -> None:
    async def run() -> None:
        log = Log()
        sink, epochs = Sink(log), LogEpochs(log)
        waiting = Waiting(Fences(log), epochs, sink)
        await epochs.look()
        asking = asyncio.create_task(waiting.counted([(USAGE, Position(1, 0, 7)), (USAGE, Position(1, 0, 6))], "", 5.0))
        await asyncio.sleep(0.05)
        log.goes_over(7)
        assert await asking == [(Position(2, 0, 0), True), (Position(1, 0, 6), True)]
        assert sink.taken == 1

    asyncio.run(run())


def test_waiting_ends_with_its_time_where_nothing_is_counted_and_asks_nobody_twice_at_once() -> None:
    async def run() -> None:
        log = Log()
        waiting = Waiting(Fences(log), LogEpochs(log), Sink(log))
        assert await waiting.counted([(USAGE, Position(1, 0, 3))], "", 0.6) == [(Position(1, 0, 3), False)]
        assert log.looks <= 3
        assert await waiting.counted([], "", 0.6) == []

    asyncio.run(run())
