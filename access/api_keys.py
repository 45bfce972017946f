"""API keys of organizations, verified against the table with the bounds of `access.lookups`.

So a new key is seen within a second of a failed try, a revoked one works for up to five seconds, and one that expires
stops at its time exactly. What has not the form of a key costs no look-up.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from access.lookups import Lookups
from access.principals import AccessRefused, Principal
from runtime.keyring import Keyring
from store.api_key_secrets import lookups
from store.api_keys import ApiKey, has_the_form


def keys_by_lookup(rows: Sequence[tuple[Any, ...]]) -> Mapping[bytes, ApiKey]:
    """By their keyed hash."""
    return {key.lookup: key for key in (ApiKey(*row) for row in rows)}


class ApiKeys:
    """Verifies them. For one event loop."""

    def __init__(
        self,
        keyring: Keyring,
        rows: Lookups[bytes, ApiKey],
        any_valid: Callable[[], Awaitable[bool]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keyring = keyring
        self._rows = rows
        self._any_valid = any_valid
        self._now = now

    async def configured(self) -> bool:
        return await self._any_valid()

    async def principal(self, key: str) -> Principal:
        """Raises AccessRefused 401, 503."""
        if not has_the_form(key):
            raise _wrong()
        for digest in lookups(self._keyring, key):
            row = await self._rows.get(digest)
            if row is not None and hmac.compare_digest(row.lookup, digest):
                return self._principal(row)
        raise _wrong()

    def _principal(self, row: ApiKey) -> Principal:
        if row.revoked_at is not None:
            raise AccessRefused(401, "revoked_key", f"The API key {row.key_id} was revoked; use another one.")
        if row.expires_at is not None and row.expires_at <= self._now():
            raise AccessRefused(401, "expired_key", f"The API key {row.key_id} has expired; have a new one issued.")
        return Principal("key", row.key_id, row.tenant_id, row.source_services, role="key")


def _wrong() -> AccessRefused:
    return AccessRefused(401, "wrong_key", "This is no API key of this server; check it, or have a new one issued.")
