"""Postgres connections, each with the same time limits. Nothing here connects until it is called or opened."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from runtime.settings import Settings


def conninfo(settings: Settings, *, idle_in_transaction_s: float | None = None, session: str = "", **over: Any) -> str:
    """libpq's connection string: the URL, the authority if one is set, and the time limits.

    With `idle_in_transaction_s` the server ends a transaction that says nothing for so long. Whoever holds locks that
    others wait for wants this: where the network swallows the client's end, the server would keep the locks for hours.
    `session` holds further options of the session, as `-c name=value`.
    """
    limits = f"-c statement_timeout={round(settings.postgres_timeout_s * 1000)} -c TimeZone=UTC"
    if idle_in_transaction_s is not None:
        limits += f" -c idle_in_transaction_session_timeout={round(idle_in_transaction_s * 1000)}"
    if session:
        limits += f" {session}"
    extra: dict[str, Any] = {
        "connect_timeout": max(2, round(settings.postgres_timeout_s)),
        "application_name": settings.service_name,
        "keepalives_idle": 10,
        "tcp_user_timeout": round(settings.postgres_timeout_s * 2000),
        "options": limits,
    }
    if settings.postgres_ca_file is not None:
        extra |= {"sslmode": "verify-full", "sslrootcert": str(settings.postgres_ca_file)}
    return make_conninfo(settings.postgres_url.get_secret_value(), **(extra | over))


def connect(settings: Settings, *, autocommit: bool = False, **over: Any) -> psycopg.Connection[Any]:
    """One connection. Raises psycopg.OperationalError within `postgres_timeout_s` when the server is away."""
    return psycopg.connect(conninfo(settings, **over), autocommit=autocommit)


def pool(settings: Settings) -> ConnectionPool[psycopg.Connection[Any]]:
    """A closed pool for threads; open it with `with` or `.open()`."""
    return ConnectionPool(
        conninfo(settings), min_size=1, max_size=settings.postgres_pool_max, timeout=settings.postgres_timeout_s, open=False
    )


def async_pool(settings: Settings) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
    """A closed pool for an event loop; open it with `async with` or `await .open()`."""
    return AsyncConnectionPool(
        conninfo(settings), min_size=1, max_size=settings.postgres_pool_max, timeout=settings.postgres_timeout_s, open=False
    )
