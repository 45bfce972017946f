"""Which topic events go to now: the one of the newest epoch, looked up anew from time to time.

A server that has not heard of a new epoch yet publishes to the old topic. Nothing is lost by it: what comes there late is
forwarded. Only whoever waits for the counters has to know, for nothing past an epoch's end is ever counted there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from entitlements.models import Position
from entitlements.queries import statement
from entitlements.store import Store, StoreAway

LOOK_EVERY_S = 1.0


class LogEpoch(NamedTuple):
    """One row of epochs."""

    epoch: int
    topic: str
    ends: tuple[int, ...] | None


class LogEpochs:
    """For one event loop."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._sql = statement("epochs")
        self._known: tuple[LogEpoch, ...] = ()
        self._look_at = 0.0
        self._looking = asyncio.Lock()

    async def newest(self) -> LogEpoch | None:
        """The one that goes on, as far as was known LOOK_EVERY_S ago; None before there is one.

        Raises StoreAway where it was never known. While Postgres is away what was known stands: it was true, and is safe.
        """
        if not self._known:
            # Whoever comes while the first reading is under way waits for it: nothing is known yet to go on with.
            async with self._looking:
                if not self._known:
                    await self._read()
        elif self._clock() >= self._look_at and not self._looking.locked():
            try:
                await self.look()
            except StoreAway:
                self._look_at = self._clock() + LOOK_EVERY_S
        return self._known[-1] if self._known else None

    async def look(self) -> None:
        """Reads them anew, now. Raises StoreAway."""
        async with self._looking:
            await self._read()

    async def _read(self) -> None:
        rows = await self._store.rows("epochs", self._sql, {})
        self._known = tuple(LogEpoch(epoch, topic, ends and tuple(ends)) for epoch, topic, ends in rows)
        self._look_at = self._clock() + LOOK_EVERY_S

    def of_topic(self, topic: str) -> int:
        """The epoch of a topic that was the newest one's at some time."""
        return next(known.epoch for known in self._known if known.topic == topic)

    def is_late(self, position: Position) -> bool:
        """Whether it is known to lie at or past its epoch's end, where nothing is counted."""
        ends = next((known.ends for known in self._known if known.epoch == position.epoch), None)
        return ends is not None and position.offset >= ends[position.partition]
