"""API keys of organizations: `sk_` and 32 random characters, shown once, found by a keyed hash.

The database alone finds no key: the hash is an HMAC under a key of the settings. Beside it stands the key itself, sealed
(`store.api_key_secrets`), for whoever may have it revealed. A key sees its tenant, and emits for its source services only.
Those belong to the tenant for good, because an event's identity holds no tenant: who could emit for another's source service
could make the other's events conflict.
Every function works in the caller's transaction, or in one of its own where there is none.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import class_row

from runtime.keyring import Keyring
from store.api_key_secrets import keep, lookups
from store.audit import Entry, record
from store.service_secrets import EVERY_SERVICE, lock_sources

PREFIX: Final = "sk_"
RANDOM_CHARACTERS: Final = 32
SHOWN_CHARACTERS: Final = 4
SOURCES_MAX: Final = 100
_ALPHABET: Final = string.ascii_letters + string.digits
_FORM: Final = re.compile(r"sk_[A-Za-z0-9]{32}")
_NAME_BYTES_MAX: Final = 256
USED_WITHIN_S: Final = 60
"""How far `last_used_at` may lag behind: a key's row is written once in this time at most, however often it is used."""

_DETAILS: Final = "shown, source_services, created_at, expires_at, revoked_at, last_used_at"
COLUMNS: Final = f"key_id, tenant_id, name, lookup, {_DETAILS}"

FIND: Final = f"""
WITH found AS (
    SELECT key_id, tenant_id, name, sought.hash AS lookup, {_DETAILS}
      FROM unnest(%s::bytea[]) AS sought (hash) JOIN api_keys ON lookup = sought.hash OR lookup_before = sought.hash
), used AS (
    UPDATE api_keys SET last_used_at = now()
      FROM (SELECT key_id AS due FROM api_keys WHERE key_id IN (SELECT key_id FROM found)
               AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
               AND (last_used_at IS NULL OR last_used_at < now() - interval '{USED_WITHIN_S} seconds')
               FOR NO KEY UPDATE SKIP LOCKED) AS noted
     WHERE key_id = due
)
SELECT * FROM found
"""
"""The keys that are kept under these hashes, and a note that they were used. A key's hash under the secret before the last
rotation finds it too, so that servers go over to the new one in any order."""


class KeyRefused(Exception):
    """The key cannot be issued; the message says why and what to do."""


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key."""

    key_id: str
    tenant_id: str
    name: str
    lookup: bytes
    shown: str
    source_services: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "source_services", frozenset(self.source_services))
        object.__setattr__(self, "lookup", bytes(self.lookup))


@dataclass(frozen=True)
class Issued:
    """A new key; the only time that it is shown."""

    key_id: str
    key: str
    secret_id: str
    """By which it can be revealed."""


def has_the_form(key: str) -> bool:
    """Whether it could be a key at all: what could not needs no look-up."""
    return _FORM.fullmatch(key) is not None


def issue(
    connection: Connection[Any],
    keyring: Keyring,
    tenant_id: str,
    name: str,
    source_services: Collection[str] | None = None,
    expires_at: datetime | None = None,
    by: str = "cli",
    request_id: str | None = None,
) -> Issued:
    """A new key of the tenant. It emits for `source_services`; None is the one that is named like the tenant.

    Raises KeyRefused: no such tenant, a bad name, a source service that is somebody else's.
    """
    sources = sorted({tenant_id} if source_services is None else set(source_services))
    if not name or len(name) > 100 or not name.isprintable():
        raise KeyRefused("want a name of 1 to 100 printable characters")
    key = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(RANDOM_CHARACTERS))
    key_id = "key_" + secrets.token_hex(12)
    with connection.transaction():
        if connection.execute("SELECT FROM tenants WHERE tenant_id = %s", (tenant_id,)).fetchone() is None:
            raise KeyRefused(f"there is no tenant {tenant_id!a}; add it first")
        claim(connection, tenant_id, sources)
        connection.execute(
            "INSERT INTO api_keys (key_id, tenant_id, name, lookup, shown, source_services, expires_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (key_id, tenant_id, name, lookups(keyring, key)[0], key[: len(PREFIX) + SHOWN_CHARACTERS], sources, expires_at),
        )
        secret_id = keep(connection, keyring, key_id, tenant_id, key)
        entry = Entry("api_key.issued", key_id, None, {"tenant": tenant_id, "source_services": sources}, tenant_id)
        record(connection, by, [entry], request_id)
    return Issued(key_id, key, secret_id)


def claim(connection: Connection[Any], tenant_id: str, source_services: Collection[str]) -> None:
    """Makes the source services the tenant's for good. Raises KeyRefused where one of them is already somebody else's."""
    sources = sorted(set(source_services))
    if len(sources) > SOURCES_MAX or any(not source or len(source.encode()) > _NAME_BYTES_MAX for source in sources):
        raise KeyRefused(f"want at most {SOURCES_MAX} source services, each of 1 to {_NAME_BYTES_MAX} bytes")
    lock_sources(connection)
    connection.execute(
        "INSERT INTO source_claims (source_service, tenant_id) SELECT unnest(%s::text[]), %s ON CONFLICT DO NOTHING",
        (sources, tenant_id),
    )
    taken = connection.execute(
        "SELECT source_service FROM source_claims WHERE source_service = ANY(%(sources)s) AND tenant_id <> %(tenant)s"
        " UNION SELECT tenant_id FROM tenants WHERE tenant_id = ANY(%(sources)s) AND tenant_id <> %(tenant)s"
        " UNION SELECT source FROM service_secrets, unnest(source_services) AS s (source)"
        " WHERE source = ANY(%(sources)s) ORDER BY 1",
        {"sources": sources, "tenant": tenant_id},
    ).fetchall()
    if EVERY_SERVICE in sources or taken:
        named = ", ".join(repr(source) for (source,) in taken) or repr(EVERY_SERVICE)
        raise KeyRefused(f"source services that are not this tenant's alone: {named}; name others")


def verify(connection: Connection[Any], keyring: Keyring, key: str) -> ApiKey | None:
    """The key if it is valid now; None for one that is unknown, expired or revoked."""
    if not has_the_form(key):
        return None
    hashes = lookups(keyring, key)
    with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
        rows = cursor.execute(
            FIND.encode() + b" WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
            (list(hashes),),
        ).fetchall()
    return next((row for row in rows if any(hmac.compare_digest(row.lookup, one) for one in hashes)), None)


def revoke(connection: Connection[Any], key_id: str, by: str = "cli", request_id: str | None = None) -> bool:
    """Ends it now, and drops what could reveal it; False when it had ended or there is none."""
    with connection.transaction():
        row = connection.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE key_id = %s AND revoked_at IS NULL RETURNING tenant_id", (key_id,)
        ).fetchone()
        if row is None:
            return False
        connection.execute("DELETE FROM api_key_secrets WHERE key_id = %s", (key_id,))
        record(connection, by, [Entry("api_key.revoked", key_id, {"tenant": row[0]}, None, row[0])], request_id)
    return True


def of_tenant(connection: Connection[Any], tenant_id: str) -> list[ApiKey]:
    """Every key that the tenant ever had, the oldest first."""
    with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
        return cursor.execute(
            f"SELECT {COLUMNS} FROM api_keys WHERE tenant_id = %s ORDER BY created_at, key_id", (tenant_id,)
        ).fetchall()
