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
from runtime.repeating import repeat_until
from store import hold_sweeping

logger = logging.getLogger(__name__)

BATCH_MAX = 500
IDLE_S = 1.0
AWAY_S = 10.0
"""While ClickHouse is away. Nobody waits for a verdict."""


class Sweeper:
    """For one thread. Safe beside other copies: rows that one works on are skipped by the others."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], clickhouse: Callable[[], Client]) -> None:
        self._connect = connect
        self._new_client = clickhouse
        self._client: Client | None = None

    def run_until(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set. Outlives an absent Postgres and an absent ClickHouse: nothing waits for the sweeper."""
        repeat_until(stop, "entitlements", "hold sweeper", self._connect, self._round)
        if self._client is not None:
            self._client.close()

    def _round(self, connection: psycopg.Connection[Any]) -> float:
        """A batch of each; how long to wait before the next one."""
        more = self.expire(connection) == BATCH_MAX
        try:
            more = self.judge(connection) == BATCH_MAX or more
        except ClickHouseError as error:
            self._client = None
            metrics.RETRIES.labels("entitlements", "clickhouse").inc()
            logger.warning("verdicts of reservations are not known yet", extra={"error": str(error).strip()})
            return AWAY_S
        return 0.0 if more else IDLE_S

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
