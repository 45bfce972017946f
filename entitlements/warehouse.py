"""ClickHouse as the endpoint reads it: by a user who may only read, in few threads, each reading with a time limit."""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from runtime import clickhouse, metrics
from runtime.settings import Settings

logger = logging.getLogger(__name__)

READ_WITHIN_S: Final = 8.0
READS_MAX: Final = 4
"""Readings at the same time."""
WAITING_MAX: Final = 32
"""More than this wait for none: they are told to come back."""

T = TypeVar("T")


class WarehouseAway(Exception):
    """ClickHouse cannot answer now; the message is for the client and names no address."""


class Warehouse:
    """For one event loop. Nothing connects before the first reading."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.within_s = min(READ_WITHIN_S, settings.clickhouse_timeout_s)
        self._threads = ThreadPoolExecutor(READS_MAX, thread_name_prefix="warehouse")
        self._clients: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._under_way = 0

    async def rows(self, name: str, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """What one statement answers. Raises WarehouseAway. May be repeated: nothing here writes."""

        def read(client: Client) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in client.query(sql, parameters=dict(parameters)).result_rows]

        return await self.read(name, read)

    async def read(self, name: str, work: Callable[[Client], T]) -> T:
        """What `work` makes of a client, in a thread. `name` is for the metric. Raises WarehouseAway, and what `work` raises."""
        if self._under_way >= WAITING_MAX:
            raise WarehouseAway("Too many readings wait for ClickHouse; try again shortly.")
        self._under_way += 1
        started = time.perf_counter()
        running = asyncio.get_running_loop().run_in_executor(self._threads, self._work, work)
        running.add_done_callback(self._ended)
        try:
            # Shielded: the thread goes on to its client's own time limit, and counts as under way until then.
            async with asyncio.timeout(self.within_s):
                return await asyncio.shield(running)
        except (ClickHouseError, HTTPError, TimeoutError) as error:
            logger.warning("clickhouse does not answer", extra={"query": name, "error": str(error)[:500] or type(error).__name__})
            raise WarehouseAway("ClickHouse does not answer in time; ask for less, or try again shortly.") from error
        finally:
            metrics.HTTP_QUERY_SECONDS.labels(name).observe(time.perf_counter() - started)

    async def close(self) -> None:
        """Waits for nothing: readings end with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while not self._clients.empty():
            self._clients.get().close()

    def _work(self, work: Callable[[Client], T]) -> T:
        try:
            client = self._clients.get_nowait()
        except queue.Empty:
            client = clickhouse.reader(self._settings, timeout_s=self.within_s)
        try:
            made = work(client)
        except BaseException:
            client.close()
            raise
        self._clients.put(client)
        return made

    def _ended(self, running: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        if not running.cancelled():
            # An error that nobody waits for any more is no defect: the client went away.
            running.exception()
