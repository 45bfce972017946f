"""What Postgres says of a credential, kept for seconds: bounded in time and in number, one statement at a time.

What that means, by name, for whoever states a bound on revocation:
- what was found is believed for FRESH_S, what was not found for READ_AGAIN_S;
- all who ask while a statement runs share the next one, so guessing never costs more than one statement at a time;
- while Postgres is away what was found goes on for STALE_MAX_S since it was read, and what is not known gets 503.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from access.principals import AccessRefused

FRESH_S: Final = 5.0
READ_AGAIN_S: Final = 1.0
STALE_MAX_S: Final = 300.0
KEPT_MAX: Final = 20_000
TOGETHER_MAX: Final = 256
WAITING_MAX: Final = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LookupAway(Exception):
    """Postgres cannot be asked now."""


Read = Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]
"""Asks for several at once; what it leaves out is not there. Raises LookupAway."""


class Lookups(Generic[K, V]):
    """For one event loop."""

    def __init__(self, read: Read[K, V], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._monotonic = monotonic
        # Apart, so that guesses push out guesses only.
        self._found: dict[K, tuple[V, float]] = {}
        self._missing: dict[K, float] = {}
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._worker: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """What stands under the key, None when nothing does. Raises AccessRefused 503."""
        now = self._monotonic()
        found = self._found.get(key)
        if found is not None and now - found[1] <= FRESH_S:
            return found[0]
        if now - self._missing.get(key, float("-inf")) <= READ_AGAIN_S:
            return None
        future = self._waiting.get(key)
        if future is None:
            if len(self._waiting) >= WAITING_MAX:
                raise AccessRefused(503, "store_unavailable", "Too many credentials wait to be verified; try again shortly.")
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
        try:
            # Shielded: others may wait for the same.
            return await asyncio.shield(future)
        except LookupAway:
            found = self._found.get(key)
            if found is not None and self._monotonic() - found[1] <= STALE_MAX_S:
                return found[0]
            raise AccessRefused(
                503, "store_unavailable", "Credentials cannot be verified while Postgres is away; try again shortly."
            ) from None

    async def _work(self) -> None:
        while self._waiting:
            together = list(self._waiting.items())[:TOGETHER_MAX]
            error: Exception | None = None
            values: Mapping[K, V] = {}
            try:
                values = await self._read([key for key, _ in together])
            except Exception as raised:  # noqa: BLE001 - whatever it is, it belongs to everyone who waits for this statement
                error = raised
            now = self._monotonic()
            for key, future in together:
                del self._waiting[key]
                if error is not None:
                    future.set_exception(error)
                    # An error that nobody waits for any more is no defect: the client went away.
                    future.exception()
                    continue
                value = values.get(key)
                self._found.pop(key, None)
                self._missing.pop(key, None)
                if value is None:
                    _keep(self._missing, key, now)
                else:
                    _keep(self._found, key, (value, now))
                future.set_result(value)


def _keep(kept: dict[K, V], key: K, value: V) -> None:
    kept[key] = value
    if len(kept) > KEPT_MAX:
        del kept[next(iter(kept))]
