"""ClickHouse as servers read it for those who ask: by a user who may only read, few at once, each reading with a time limit."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
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

T = TypeVar("T")


class WarehouseAway(Exception):
    """ClickHouse cannot answer now; the message is for the client and names no address."""


class Readers:
    """For any thread. Nothing connects before the first reading. What reads is made anew after a failure."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.within_s = min(READ_WITHIN_S, settings.clickhouse_timeout_s)
        self._clients: queue.SimpleQueue[Client] = queue.SimpleQueue()
        self._places = threading.BoundedSemaphore(READS_MAX)

    def rows(self, name: str, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """What one statement answers. Raises WarehouseAway. May be repeated: nothing here writes."""

        def read(client: Client) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in client.query(sql, parameters=dict(parameters)).result_rows]

        return self.read(name, read)

    def read(self, name: str, work: Callable[[Client], T]) -> T:
        """What `work` makes of a client. `name` is for the metric. Blocks for `within_s` to be let in, and as long again.

        Raises WarehouseAway, and what `work` raises.
        """
        started = time.perf_counter()
        if not self._places.acquire(timeout=self.within_s):
            raise WarehouseAway("Too many readings wait for ClickHouse; try again shortly.")
        try:
            return self._work(work)
        except (ClickHouseError, HTTPError) as error:
            raise away(name, error) from error
        finally:
            self._places.release()
            metrics.HTTP_QUERY_SECONDS.labels(name).observe(time.perf_counter() - started)

    def close(self) -> None:
        """Waits for nothing: readings end with the process."""
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


def away(name: str, error: Exception) -> WarehouseAway:
    """What a failed reading is told as; the cause stands in the log."""
    logger.warning("clickhouse does not answer", extra={"query": name, "error": str(error)[:500] or type(error).__name__})
    return WarehouseAway("ClickHouse does not answer in time; ask for less, or try again shortly.")
