"""API keys as they are kept to be revealed: sealed, each bound to its tenant and its own id.

Every function works in the caller's transaction.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import class_row

from runtime.keyring import Keyring
from runtime.sealing import Sealed, Unopenable, key_ids, seal, unseal
from store.audit import Entry, record

_SEALING: Final = "api key at rest"
_LOOKUP: Final = "api key lookup"
_COLUMNS: Final = "s.secret_id, s.key_id, k.tenant_id, s.sealed_by, s.nonce, s.ciphertext, s.sealed_at"


@dataclass(frozen=True)
class KeySecret:
    """A key as it lies there."""

    secret_id: str
    key_id: str
    tenant_id: str
    sealed_by: str
    nonce: bytes
    ciphertext: bytes
    sealed_at: datetime

    def opened(self, keyring: Keyring) -> str:
        """The key. Raises Unopenable."""
        sealed = Sealed(self.sealed_by, bytes(self.nonce), bytes(self.ciphertext))
        return unseal(keyring, _SEALING, sealed, (self.tenant_id, self.secret_id)).decode("ascii")


@dataclass(frozen=True)
class Rotated:
    """What one batch did."""

    resealed: int
    unopenable: tuple[str, ...]
    """Secrets under a key that the settings do not have."""
    after: str | None
    """Where the next batch goes on; None when there is nothing left."""


def lookups(keyring: Keyring, key: str) -> tuple[bytes, ...]:
    """The hashes under which a key may be kept, by the newest secret first."""
    return tuple(hmac.digest(secret, key.encode(), hashlib.sha256) for secret in keyring.keys(_LOOKUP))


def keep(connection: Connection[Any], keyring: Keyring, key_id: str, tenant_id: str, key: str) -> str:
    """Seals a new key; returns the id under which it is kept."""
    secret_id = "sec_" + secrets.token_hex(12)
    sealed = seal(keyring, _SEALING, key.encode("ascii"), (tenant_id, secret_id))
    connection.execute(
        "INSERT INTO api_key_secrets (secret_id, key_id, sealed_by, nonce, ciphertext) VALUES (%s, %s, %s, %s, %s)",
        (secret_id, key_id, sealed.key_id, sealed.nonce, sealed.ciphertext),
    )
    return secret_id


def secret_of(connection: Connection[Any], tenant_id: str, secret_id: str) -> KeySecret | None:
    """The tenant's secret of that id; None where there is none, or its key was revoked."""
    with connection.cursor(row_factory=class_row(KeySecret)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM api_key_secrets s JOIN api_keys k USING (key_id)"
            " WHERE s.secret_id = %s AND k.tenant_id = %s AND k.revoked_at IS NULL",
            (secret_id, tenant_id),
        ).fetchone()


def rotate(connection: Connection[Any], keyring: Keyring, after: str, most: int, by: str) -> Rotated:
    """Seals the next keys anew with the newest secret, and keeps them under its hash beside the one before.

    A batch is resumable: what is done is no longer found by the next run, whatever `after`.
    """
    newest = key_ids(keyring, _SEALING)[0]
    with connection.cursor(row_factory=class_row(KeySecret)) as cursor:
        rows = cursor.execute(
            f"SELECT {_COLUMNS} FROM api_key_secrets s JOIN api_keys k USING (key_id)"
            " WHERE s.sealed_by <> %s AND s.secret_id > %s ORDER BY s.secret_id LIMIT %s FOR UPDATE OF s, k",
            (newest, after, most),
        ).fetchall()
    unopenable = []
    for row in rows:
        try:
            key = row.opened(keyring)
        except Unopenable:
            unopenable.append(row.secret_id)
            continue
        sealed = seal(keyring, _SEALING, key.encode("ascii"), (row.tenant_id, row.secret_id))
        connection.execute(
            "UPDATE api_key_secrets SET sealed_by = %s, nonce = %s, ciphertext = %s, sealed_at = now() WHERE secret_id = %s",
            (sealed.key_id, sealed.nonce, sealed.ciphertext, row.secret_id),
        )
        connection.execute(
            "UPDATE api_keys SET lookup_before = lookup, lookup = %(lookup)s WHERE key_id = %(key)s AND lookup <> %(lookup)s",
            {"lookup": lookups(keyring, key)[0], "key": row.key_id},
        )
    resealed = len(rows) - len(unopenable)
    if resealed:
        record(connection, by, [Entry("api_keys.rotated", newest, None, {"keys": resealed})])
    return Rotated(resealed, tuple(unopenable), rows[-1].secret_id if len(rows) == most else None)


def not_kept(connection: Connection[Any]) -> list[tuple[str, str]]:
    """Valid keys that were issued before keys were sealed, with their tenants: nothing can rotate or reveal them."""
    return connection.execute(
        "SELECT key_id, tenant_id FROM api_keys k WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
        " AND NOT EXISTS (SELECT FROM api_key_secrets s WHERE s.key_id = k.key_id) ORDER BY 1 LIMIT 100"
    ).fetchall()
