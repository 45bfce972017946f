"""Postgres connections, each with the same time limits. Nothing here connects until it is called or opened."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from runtime.settings import Settings


def conninfo(settings: Settings, **over: Any) -> str:
    """libpq's connection string: the URL, the authority if one is set, and the time limits."""
    extra: dict[str, Any] = {
        "connect_timeout": max(2, round(settings.postgres_timeout_s)),
        "application_name": settings.service_name,
        "keepalives_idle": 10,
        "tcp_user_timeout": round(settings.postgres_timeout_s * 2000),
        "options": f"-c statement_timeout={round(settings.postgres_timeout_s * 1000)} -c TimeZone=UTC",
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
