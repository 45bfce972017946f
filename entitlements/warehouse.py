"""ClickHouse as the endpoint reads it: in few threads, so that no reading stalls the event loop, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from clickhouse_connect.driver.client import Client

from runtime.settings import Settings
from runtime.warehouse import READS_MAX, Readers, WarehouseAway, away

WAITING_MAX: Final = 32
"""More than this wait for none: they are told to come back."""

T = TypeVar("T")


class Warehouse:
    """For one event loop. Nothing connects before the first reading."""

    def __init__(self, settings: Settings) -> None:
        self._readers = Readers(settings)
        self.within_s = self._readers.within_s
        self._threads = ThreadPoolExecutor(READS_MAX, thread_name_prefix="warehouse")
        self._under_way = 0

    async def rows(self, name: str, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """What one statement answers. Raises WarehouseAway. May be repeated: nothing here writes."""
        return await self._in_thread(name, lambda: self._readers.rows(name, sql, parameters))

    async def read(self, name: str, work: Callable[[Client], T]) -> T:
        """What `work` makes of a client, in a thread. `name` is for the metric. Raises WarehouseAway, and what `work` raises."""
        return await self._in_thread(name, lambda: self._readers.read(name, work))

    async def close(self) -> None:
        """Waits for nothing: readings end with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._readers.close()

    async def _in_thread(self, name: str, reading: Callable[[], T]) -> T:
        if self._under_way >= WAITING_MAX:
            raise WarehouseAway("Too many readings wait for ClickHouse; try again shortly.")
        self._under_way += 1
        running = asyncio.get_running_loop().run_in_executor(self._threads, reading)
        running.add_done_callback(self._ended)
        try:
            # Shielded: the thread goes on to its client's own time limit, and counts as under way until then.
            async with asyncio.timeout(self.within_s):
                return await asyncio.shield(running)
        except TimeoutError as error:
            raise away(name, error) from error

    def _ended(self, running: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        if not running.cancelled():
            # An error that nobody waits for any more is no defect: the client went away.
            running.exception()
