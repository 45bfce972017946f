"""When a statement may run: bounded lanes, so that no kind of work can take the place of another.

Inserts, other writes and reads each have places of their own. A read begins in a quick place; one that runs longer than
a second moves to a long place and so leaves the quick one to the next look-up. When all places and the queue before them
are full, the answer is TOO_MANY_SIMULTANEOUS_QUERIES at once, never an endless wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deploy.embedded.clickhouse.failures import TOO_MANY_SIMULTANEOUS_QUERIES, Failure


@dataclass(frozen=True, slots=True)
class LaneBounds:
    inserts: int = 2
    writes: int = 4
    quick_reads: int = 8
    long_reads: int = 24
    readonly_quick_reads: int = 4
    readonly_long_reads: int = 8
    waiting: int = 128
    wait_s: float = 10.0
    quick_s: float = 1.0

    @property
    def running(self) -> int:
        """The most statements that can run at once."""
        readonly = self.readonly_quick_reads + self.readonly_long_reads
        return self.inserts + self.writes + self.quick_reads + self.long_reads + readonly


class Lane:
    """A number of places, and a bounded queue before them. For one event loop."""

    def __init__(self, name: str, places: int, waiting_max: int, wait_s: float) -> None:
        self._name = name
        self._free = places
        self._places = places
        self._queue: deque[asyncio.Future[None]] = deque()
        self._waiting_max = waiting_max
        self._wait_s = wait_s

    async def take(self) -> None:
        """Take a place, waiting for one within the bound. Raises Failure (202)."""
        if self.try_take():
            return
        if len(self._queue) >= self._waiting_max:
            raise self._full(f"{len(self._queue)} wait already")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await asyncio.wait_for(place, self._wait_s)
        except (TimeoutError, asyncio.CancelledError) as error:
            if place.done() and not place.cancelled():
                self.give_back()  # it was handed over in the moment of giving up
            elif place in self._queue:
                self._queue.remove(place)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise self._full(f"none became free in {self._wait_s:g} s") from None

    def try_take(self) -> bool:
        if self._free <= 0 or self._queue:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        """Hand the place to the longest waiting, or keep it free."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _full(self, why: str) -> Failure:
        return Failure(
            TOO_MANY_SIMULTANEOUS_QUERIES,
            f"Too many simultaneous queries: all {self._places} places for {self._name} are taken and {why}; try again",
        )


class Lanes:
    """The lanes of one gateway."""

    def __init__(self, bounds: LaneBounds) -> None:
        self._bounds = bounds
        self._inserts = Lane("inserts", bounds.inserts, bounds.waiting, bounds.wait_s * 6)
        self._writes = Lane("other writes", bounds.writes, bounds.waiting, bounds.wait_s * 6)
        # Analysts have reads of their own, so that they cannot take the places of the pipeline's.
        self._reads = {
            False: (
                Lane("reads", bounds.quick_reads, bounds.waiting, bounds.wait_s),
                Lane("long reads", bounds.long_reads, 0, 0),
            ),
            True: (
                Lane("read-only reads", bounds.readonly_quick_reads, bounds.waiting, bounds.wait_s),
                Lane("long read-only reads", bounds.readonly_long_reads, 0, 0),
            ),
        }

    @asynccontextmanager
    async def insert(self) -> AsyncIterator[None]:
        await self._inserts.take()
        try:
            yield
        finally:
            self._inserts.give_back()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[None]:
        await self._writes.take()
        try:
            yield
        finally:
            self._writes.give_back()

    @asynccontextmanager
    async def read(self, *, readonly: bool) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        quick, long = self._reads[readonly]
        await quick.take()
        held = quick
        timer: asyncio.TimerHandle

        def move() -> None:
            nonlocal held, timer
            if long.try_take():
                quick.give_back()
                held = long
            else:
                timer = loop.call_later(self._bounds.quick_s, move)

        timer = loop.call_later(self._bounds.quick_s, move)
        try:
            yield
        finally:
            timer.cancel()
            held.give_back()
