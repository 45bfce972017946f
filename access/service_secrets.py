"""Service secrets: the header `X-Service-Secret`, known to us by its SHA-256 only.

A secret is random and long, so its plain hash is enough at rest, and finding it by its hash gives nothing away: who guesses
does not know what a guess hashes to. The comparison that decides is in constant time all the same.

The whole table is small (one row a service and rotation) and kept in memory, so that a request costs no SQL. What that
means for freshness:
- a new secret is seen at once if the last reading is a second old, else within that second;
- a revoked one works for up to FRESH_S seconds; one that expires stops at its time exactly;
- while Postgres is away the last reading serves for up to STALE_MAX_S seconds, then requests get 503;
- a wrong secret causes at most one reading a second, however many are tried.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from access.principals import AccessRefused, Principal
from access.verifiers import RawHeaders, only_header
from store.service_secrets import secret_hash

logger = logging.getLogger(__name__)

HEADER = b"x-service-secret"
SECRET_BYTES_MAX = 512
SECRETS_MAX = 10_000
"""More rows than this are not read; services and their rotations are few."""
FRESH_S = 5.0
STALE_MAX_S = 300.0
READ_AGAIN_S = 1.0
"""The least time between two readings that a miss or a failure causes."""

_READ = "SELECT name, secret_hash, source_services, expires_at FROM service_secrets ORDER BY created_at DESC LIMIT %s"


@dataclass(frozen=True, slots=True)
class SecretRow:
    """One row of service_secrets."""

    name: str
    secret_hash: bytes
    source_services: frozenset[str]
    expires_at: datetime | None


class SecretsAway(Exception):
    """The secrets cannot be read now."""


class ReadSecrets(Protocol):
    """Reads every secret's row. Raises SecretsAway."""

    def __call__(self) -> Awaitable[Sequence[SecretRow]]: ...


def reader(pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], timeout_s: float) -> ReadSecrets:
    """Reads them through `pool`, within `timeout_s`."""

    async def read() -> Sequence[SecretRow]:
        try:
            async with asyncio.timeout(timeout_s), pool.connection(timeout=timeout_s) as connection:
                cursor = await connection.execute(_READ, (SECRETS_MAX,))
                rows = await cursor.fetchall()
                return [SecretRow(name, bytes(digest), frozenset(sources), expires) for name, digest, sources, expires in rows]
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            raise SecretsAway(str(error) or type(error).__name__) from error

    return read


@dataclass(frozen=True, slots=True)
class _Known:
    row: SecretRow
    principal: Principal


class ServiceSecretVerifier:
    """Verifies `X-Service-Secret` against the table, from memory. For one event loop."""

    presents = "X-Service-Secret"

    def __init__(
        self,
        read: ReadSecrets,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._read = read
        self._monotonic = monotonic
        self._now = now
        self._known: dict[bytes, _Known] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading = asyncio.Lock()

    async def configured(self) -> bool:
        await self._refresh(no_older_than_s=FRESH_S, wait=True)
        now = self._now()
        return any(known.row.expires_at is None or known.row.expires_at > now for known in self._known.values())

    async def verify(self, headers: RawHeaders) -> Principal | None:
        secret = only_header(headers, HEADER)
        if secret is None:
            return None
        if not secret or len(secret) > SECRET_BYTES_MAX:
            raise _wrong()
        try:
            digest = secret_hash(secret.decode("ascii"))
        except UnicodeDecodeError:
            raise _wrong() from None
        await self._refresh(no_older_than_s=FRESH_S, wait=False)
        known = self._known.get(digest)
        if known is None:
            await self._refresh(no_older_than_s=READ_AGAIN_S, wait=True)
            known = self._known.get(digest)
        if known is None or not hmac.compare_digest(known.row.secret_hash, digest):
            raise _wrong()
        if known.row.expires_at is not None and known.row.expires_at <= self._now():
            message = f"The secret of {known.row.name} has expired; use the one that replaced it."
            raise AccessRefused(401, "expired_secret", message)
        return known.principal

    def _age_s(self) -> float:
        return float("inf") if self._read_at is None else self._monotonic() - self._read_at

    async def _refresh(self, *, no_older_than_s: float, wait: bool) -> None:
        """Reads the table unless the last reading is young enough; goes on with an old one while Postgres is away.

        One reading runs at a time. Who need not `wait` uses the last reading while another is under way.
        """
        if self._age_s() <= no_older_than_s or (not wait and self._reading.locked() and self._age_s() <= STALE_MAX_S):
            return
        async with self._reading:
            # Somebody else may have read, or failed, while this one waited.
            since_try_s = float("inf") if self._tried_at is None else self._monotonic() - self._tried_at
            if self._age_s() > no_older_than_s and since_try_s >= READ_AGAIN_S:
                try:
                    rows = await self._read()
                    self._known = {row.secret_hash: _known(row) for row in rows}
                    self._read_at = self._monotonic()
                except SecretsAway as error:
                    logger.warning("service secrets cannot be read", extra={"error": str(error), "age_s": self._age_s()})
                finally:
                    # After the try: one that hangs until its time limit must not be followed by the next at once.
                    self._tried_at = self._monotonic()
        if self._age_s() > STALE_MAX_S:
            raise AccessRefused(503, "store_unavailable", "Secrets cannot be verified while Postgres is away; try again shortly.")


def _known(row: SecretRow) -> _Known:
    return _Known(row, Principal("service", row.name, source_services=row.source_services))


def _wrong() -> AccessRefused:
    return AccessRefused(401, "wrong_secret", "X-Service-Secret is no secret of this server; check it, or have a new one made.")
