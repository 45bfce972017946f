"""Postgres as the endpoint reads it: one statement a reading, a time limit on each, and "away" said at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from runtime import metrics
from runtime.postgres import conninfo
from runtime.settings import Settings

logger = logging.getLogger(__name__)

RECONNECT_FOR_S = 2.0
"""How long the pool's own attempts back off. Short: the next request begins a new round, so that a server which was away
for an hour is found again within seconds."""
LOOK_AGAIN_S = 0.25
"""After a failure one look is taken this often until Postgres answers; requests meanwhile are told at once that it is away,
and never wait for a server that was away a moment ago."""
WAITING_MAX = 1_000
"""Most requests that wait for a connection."""

_STEADY_PLANS = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off"
"""Every statement here is a hundred look-ups by primary key at most. One plan, made once, must stay right while the tables
grow from nothing to millions of rows: while they are small, a scan would look cheaper, and would be kept."""

_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, PoolClosed, TooManyRequests, TimeoutError)
_WAITED_TOO_LONG = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, TimeoutError)
"""In a transaction these may come from a lock that others hold: no sign that the server is away."""
_NOT_MIGRATED = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.InvalidSchemaName)
_UNKNOWN = "Postgres does not answer in time; whether it was done is not known. Send the same again shortly."


class StoreAway(Exception):
    """Postgres cannot answer now; the message is for the client and names no address."""


class Store:
    """A pool of connections for one event loop. Nothing connects before `open`."""

    def __init__(self, settings: Settings) -> None:
        self.timeout_s = settings.postgres_timeout_s
        self.pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
            conninfo(settings, session=_STEADY_PLANS),
            # Every reading is one statement: a transaction round it would be two more trips.
            kwargs={"autocommit": True},
            min_size=1,
            max_size=settings.postgres_pool_max,
            max_waiting=WAITING_MAX,
            timeout=settings.postgres_timeout_s,
            reconnect_timeout=RECONNECT_FOR_S,
            open=False,
        )
        self._looking: asyncio.Task[None] | None = None
        """Set while Postgres is away."""

    async def open(self) -> None:
        """Starts connecting, and returns without waiting for it."""
        await self.pool.open(wait=False)

    async def close(self, within_s: float) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await self.pool.close(timeout=within_s)

    async def rows(self, name: str, sql: bytes, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """What one statement answers. Raises StoreAway within about `timeout_s`; at once while Postgres is known to be away.

        `name` is the statement's, for the metric. May be repeated: nothing here writes.
        """
        if self._looking is not None:
            raise StoreAway("Postgres does not answer; nothing was decided. Try again shortly.")
        try:
            return await self._ask(name, sql, parameters)
        except StoreAway:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look())
            raise

    async def _ask(self, name: str, sql: bytes, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s), self.pool.connection() as connection:
                cursor = await connection.execute(sql, parameters, prepare=True)
                return await cursor.fetchall()
        except _AWAY as error:
            metrics.RETRIES.labels("entitlements", "postgres").inc()
            logger.warning("postgres does not answer", extra={"query": name, "error": str(error) or type(error).__name__})
            raise StoreAway("Postgres does not answer; nothing was decided. Try again shortly.") from error
        except _NOT_MIGRATED as error:
            logger.warning("the schema is not this build's", extra={"query": name, "error": str(error)})
            raise StoreAway("The database is not migrated; run `meterline migrate`, then try again.") from error
        finally:
            metrics.HTTP_QUERY_SECONDS.labels(name).observe(time.perf_counter() - started)

    async def _look(self) -> None:
        """Asks for nothing, again and again, until there is an answer."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            try:
                await self._ask("look", b"SELECT 1", {})
            except StoreAway:
                continue
            self._looking = None
            return

    @asynccontextmanager
    async def transaction(self, name: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A transaction at READ COMMITTED: committed when the block ends, rolled back when it raises.

        Raises StoreAway within about `timeout_s`, at once while Postgres is known to be away. Where it was not known, whether
        the transaction was committed is not known either, so that the block must be one that may be repeated.
        """
        if self._looking is not None:
            raise StoreAway("Postgres does not answer; nothing was done. Try again shortly.")
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s), self.pool.connection() as connection, connection.transaction():
                yield connection
        except _WAITED_TOO_LONG as error:
            metrics.RETRIES.labels("entitlements", "postgres").inc()
            raise StoreAway(f"{_UNKNOWN} Too many wait for the same thing.") from error
        except psycopg.errors.ReadOnlySqlTransaction as error:
            metrics.RETRIES.labels("entitlements", "postgres").inc()
            logger.warning("postgres takes no writes", extra={"query": name, "error": str(error)})
            raise StoreAway("Postgres takes no writes now (a standby?); nothing was done. Try again shortly.") from error
        except _AWAY as error:
            metrics.RETRIES.labels("entitlements", "postgres").inc()
            logger.warning("postgres does not answer", extra={"query": name, "error": str(error) or type(error).__name__})
            if self._looking is None:
                self._looking = asyncio.create_task(self._look())
            raise StoreAway(_UNKNOWN) from error
        except _NOT_MIGRATED as error:
            logger.warning("the schema is not this build's", extra={"query": name, "error": str(error)})
            raise StoreAway("The database is not migrated; run `meterline migrate`, then try again.") from error
        finally:
            metrics.HTTP_QUERY_SECONDS.labels(name).observe(time.perf_counter() - started)

    async def missing_tables(self, sql: bytes) -> list[str]:
        """The tables that `ready.sql` misses. Raises StoreAway."""
        return [str(table) for (table,) in await self.rows("ready", sql, {})]
