"""One at a time for each key, in one process, so that who would wait for a row's lock waits without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

WAITING_MAX = 10_000


class TooManyWait(Exception):
    """More wait already than may."""


class KeyedTurns:
    """For one event loop. Others, in other processes, are kept apart by the lock itself."""

    def __init__(self, at_once_max: int) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}
        self._room = asyncio.Semaphore(at_once_max)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """The key's turn, and one of `at_once_max` places. Raises TooManyWait at once."""
        if self._waiting >= WAITING_MAX:
            raise TooManyWait
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        self._waiting += 1
        try:
            async with lock, self._room:
                yield
        finally:
            self._waiting -= 1
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)
