"""Secrets of services, for the header `X-Service-Secret`: made here, shown once, kept as SHA-256 only.

A secret is 32 random bytes, so its plain hash is enough and is looked up directly. A service has at most two that are
valid: the one in use and the one that replaces it. Rotation: `create`, give it out, `retire` the older one.
Every function works in the caller's transaction, or in one of its own where there is none.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from store.audit import Entry, record

PREFIX = "mls_"
RANDOM_BYTES = 32
VALID_MAX = 2
EVERY_SERVICE = "*"
"""In `source_services`: it may emit for any."""


class TooManySecrets(Exception):
    """The service has two valid secrets; retire the older one first."""


@dataclass(frozen=True)
class ServiceSecret:
    """What is kept of a secret. It is named for a service, which is who acts."""

    name: str
    source_services: frozenset[str]
    created_at: datetime
    expires_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "source_services", frozenset(self.source_services))

    def may_emit_for(self, source_service: str) -> bool:
        """Whether an event of that source service may come from its holder."""
        return EVERY_SERVICE in self.source_services or source_service in self.source_services


def secret_hash(secret: str) -> bytes:
    """What is kept of it."""
    return hashlib.sha256(secret.encode()).digest()


def create(connection: Connection[Any], name: str, source_services: Collection[str], by: str = "cli") -> str:
    """A new secret of the service `name`; the only time that it can be read. Raises TooManySecrets, or ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError(f"{name!r}: want a name of letters, digits, dots, dashes, at most 100")
    if not source_services or not all(source_services):
        raise ValueError("name the source services that it may emit for, or * for every one")
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('service secret ' || %s, 0))", (name,))
        lock_sources(connection)
        claimed = connection.execute(
            "SELECT source_service FROM source_claims WHERE source_service = ANY(%s) ORDER BY 1", (list(source_services),)
        ).fetchall()
        if claimed:
            raise ValueError(f"{', '.join(repr(source) for (source,) in claimed)}: a tenant's API keys emit for it; name others")
        row = connection.execute(
            "SELECT count(*) FROM service_secrets WHERE name = %s AND (expires_at IS NULL OR expires_at > now())", (name,)
        ).fetchone()
        assert row is not None
        if row[0] >= VALID_MAX:
            raise TooManySecrets(f"{name} has {row[0]} valid secrets; retire the older one first, then make a new one")
        secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        connection.execute(
            "INSERT INTO service_secrets (name, secret_hash, source_services, created_at) VALUES (%s, %s, %s, clock_timestamp())",
            (name, secret_hash(secret), sorted(set(source_services))),
        )
        record(connection, by, [Entry("service_secret.created", name, None, {"source_services": sorted(set(source_services))})])
    return secret


def lock_sources(connection: Connection[Any]) -> None:
    """Until the transaction ends nobody else says who emits for which source service."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('source services', 0))")


def verify(connection: Connection[Any], secret: str) -> ServiceSecret | None:
    """Whose secret it is; None for one that is unknown or has expired."""
    with connection.cursor(row_factory=class_row(ServiceSecret)) as cursor:
        return cursor.execute(
            "SELECT name, source_services, created_at, expires_at FROM service_secrets"
            " WHERE secret_hash = %s AND (expires_at IS NULL OR expires_at > now())",
            (secret_hash(secret),),
        ).fetchone()


def retire(connection: Connection[Any], name: str, after: timedelta = timedelta(0), by: str = "cli") -> int:
    """Every secret of the service but its newest ends after that time; returns how many will."""
    return _expire(connection, name, after, by, keep_newest=True)


def revoke(connection: Connection[Any], name: str, by: str = "cli") -> int:
    """Every secret of the service ends now; returns how many did."""
    return _expire(connection, name, timedelta(0), by, keep_newest=False)


def _expire(connection: Connection[Any], name: str, after: timedelta, by: str, *, keep_newest: bool) -> int:
    with connection.transaction():
        # An end that is set already is never moved to later.
        ended = connection.execute(
            "UPDATE service_secrets SET expires_at = now() + %s"
            " WHERE name = %s AND (expires_at IS NULL OR expires_at > now() + %s)"
            " AND NOT (%s AND created_at = (SELECT max(created_at) FROM service_secrets WHERE name = %s))",
            (after, name, after, keep_newest, name),
        ).rowcount
        if ended:
            what = "service_secret.retired" if keep_newest else "service_secret.revoked"
            record(connection, by, [Entry(what, name, None, {"count": ended, "after_s": round(after.total_seconds())})])
    return ended
