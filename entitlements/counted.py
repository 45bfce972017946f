"""`wait=counted`: waits until the fence has passed a position, with one reader for all who wait."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from entitlements.models import Position
from entitlements.problems import Problem
from entitlements.queries import statement
from entitlements.store import Store, StoreAway

READ_EVERY_S = 0.02
WAITERS_MAX = 1_000
"""More are answered `counted: false` at once."""
TIMEOUT_DEFAULT_S = 2.0
TIMEOUT_MAX_S = 10.0

_DURATION = re.compile(r"([0-9]{1,5})(ms|s)?", re.ASCII)


def timeout_of(text: str | None) -> float:
    """Seconds of `2s`, `500ms` or `2`. Raises Problem 400."""
    if text is None:
        return TIMEOUT_DEFAULT_S
    match = _DURATION.fullmatch(text)
    seconds = -1.0 if match is None else int(match[1]) / (1000 if match[2] == "ms" else 1)
    if not 0 <= seconds <= TIMEOUT_MAX_S:
        raise Problem(400, "bad_timeout", f"timeout is no duration; send one such as 500ms or 2s, {TIMEOUT_MAX_S:.0f}s at most.")
    return seconds


class Fences:
    """Reads the fences while somebody waits, and only then. For one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sql = statement("fences")
        self._waiting: dict[int, int] = {}
        """Epoch -> how many wait for it."""
        self._next: dict[tuple[int, int], int] = {}
        self._read = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    async def counted(self, positions: Sequence[Position], timeout_s: float) -> list[bool]:
        """Which of them the counters hold, as soon as they hold all of them, or after `timeout_s`."""
        if not positions:
            return []
        if sum(self._waiting.values()) < WAITERS_MAX:
            epochs = {position.epoch for position in positions}
            for epoch in epochs:
                self._waiting[epoch] = self._waiting.get(epoch, 0) + 1
            try:
                if self._reader is None or self._reader.done():
                    self._reader = asyncio.create_task(self._read_fences())
                async with asyncio.timeout(timeout_s), self._read:
                    await self._read.wait_for(lambda: all(self._passed(position) for position in positions))
            except TimeoutError:
                pass
            finally:
                for epoch in epochs:
                    self._waiting[epoch] -= 1
                    if not self._waiting[epoch]:
                        del self._waiting[epoch]
        return [self._passed(position) for position in positions]

    def _passed(self, position: Position) -> bool:
        return self._next.get((position.epoch, position.partition), 0) > position.offset

    async def _read_fences(self) -> None:
        while self._waiting:
            try:
                rows = await self._store.rows("fences", self._sql, {"epochs": list(self._waiting)})
            except StoreAway:
                rows = []
            # Fences never move back, so what was read once stays true.
            self._next.update(((epoch, partition), next_offset) for epoch, partition, next_offset in rows)
            async with self._read:
                self._read.notify_all()
            await asyncio.sleep(READ_EVERY_S)
