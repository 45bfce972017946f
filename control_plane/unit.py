"""A unit of work: one transaction, for one actor. Services work in it and never commit; who opens it does.

No unit is open while a provider is called: a flow with such calls goes step by step, each step a unit of its own, so that
it can be resumed behind any of them, and no connection waits for somebody else's server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy.exc
from sqlalchemy import Connection, create_engine

from control_plane.refusals import StoreAway
from runtime import metrics
from runtime.postgres import connect
from runtime.settings import Settings
from store import audit

STAGE = "control-plane"


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf something is done, for the audit."""

    who: str
    """The kind and name of the principal, or the name of a loop."""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """An open transaction at READ COMMITTED."""

    sql: Connection
    """For statements of SQLAlchemy Core."""
    pg: psycopg.Connection[Any]
    """The same transaction, for the functions of `store`."""
    actor: Actor

    def audit(self, *entries: audit.Entry) -> None:
        """Notes changes in the transaction that makes them."""
        audit.record(self.pg, self.actor.who, entries, self.actor.request_id)


class Units:
    """Makes units on a bounded pool of connections. For any thread. Nothing connects before the first unit."""

    def __init__(self, settings: Settings) -> None:
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(settings),
            pool_size=settings.postgres_pool_max,
            max_overflow=0,
            pool_timeout=settings.postgres_timeout_s,
            # A connection that died while it waited is found before a transaction is begun on it.
            pool_pre_ping=True,
        )

    @contextmanager
    def begin(self, actor: Actor) -> Iterator[Unit]:
        """A unit that is committed when the block ends, and rolled back when it raises.

        Raises StoreAway where Postgres does not answer in time, or ended the transaction for a lock's sake: the block must be
        one that may be repeated.
        """
        try:
            with self._engine.begin() as sql:
                driver = sql.connection.driver_connection
                assert isinstance(driver, psycopg.Connection)
                # Says what this relies on, and begins the transaction: were it not begun, the first block of psycopg's own
                # (`pg.transaction()`, as `store` has them) would be the outermost one, and commit before the unit ends.
                driver.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                yield Unit(sql, driver, actor)
        except (
            sqlalchemy.exc.OperationalError,
            sqlalchemy.exc.TimeoutError,
            psycopg.OperationalError,
            psycopg.InterfaceError,
        ) as error:
            metrics.RETRIES.labels(STAGE, "postgres").inc()
            raise StoreAway from error

    def close(self) -> None:
        """Gives every connection back."""
        self._engine.dispose()
