"""The sweeper of reservations: orphans are marked, and what was counted gets its verdict."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from runtime import metrics
from runtime.life import Backoff
from store import hold_sweeping

logger = logging.getLogger(__name__)

BATCH_MAX = 500
IDLE_S = 1.0


class Sweeper:
    """For one thread. Safe beside other copies: rows that one works on are skipped by the others."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], clickhouse: Callable[[], Client]) -> None:
        self._connect = connect
        self._new_client = clickhouse
        self._client: Client | None = None

    def run_until(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set. Outlives an absent Postgres and an absent ClickHouse: nothing waits for the sweeper."""
        backoff = Backoff(IDLE_S, 30.0)
        while not stop.is_set():
            try:
                with self._connect() as connection:
                    while not stop.is_set():
                        more = self.expire(connection) == BATCH_MAX
                        more = self.judge(connection) == BATCH_MAX or more
                        backoff.reset()
                        stop.wait(0.0 if more else IDLE_S)
            except psycopg.Error as error:
                self._again("postgres", error, stop, backoff)
            except ClickHouseError as error:
                self._client = None
                self._again("clickhouse", error, stop, backoff)
        if self._client is not None:
            self._client.close()

    def expire(self, connection: psycopg.Connection[Any]) -> int:
        """One batch of orphans; how many. Raises psycopg.Error."""
        with connection.transaction():
            expired = hold_sweeping.expire(connection, BATCH_MAX)
        if expired:
            metrics.RESERVATIONS.labels("expired").inc(expired)
            logger.info("reservations expired", extra={"reservations": expired})
        return expired

    def judge(self, connection: psycopg.Connection[Any]) -> int:
        """One batch of verdicts; how many were noted. Raises psycopg.Error, ClickHouseError."""
        with connection.transaction():
            counted = hold_sweeping.counted(connection, BATCH_MAX)
            if not counted:
                return 0
            if self._client is None:
                self._client = self._new_client()
            found = hold_sweeping.verdicts(self._client, counted)
            hold_sweeping.judge(connection, found)
        for verdict in found.values():
            if verdict != "admitted":
                # Somebody else recorded this piece of work, or settled a second reservation for it.
                logger.warning("a settled reservation was not admitted", extra={"verdict": verdict})
        return len(found)

    def _again(self, dependency: str, error: Exception, stop: threading.Event, backoff: Backoff) -> None:
        metrics.RETRIES.labels("entitlements", dependency).inc()
        logger.warning("reservations were not swept; tried again", extra={"error": str(error).strip() or type(error).__name__})
        stop.wait(backoff.wait_s())
