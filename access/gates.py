"""The gate of a server, from its settings: every verifier that they configure, and the limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from access import service_secrets
from access.api_keys import ApiKeys, keys_by_lookup
from access.bearer import BearerVerifier, TokenVerifier
from access.clerk_tokens import ALGORITHM as RS256
from access.clerk_tokens import ClerkTokens, SigningKeys
from access.lookups import LookupAway, Lookups, Read
from access.principals import AccessRefused
from access.rate_limits import RateLimits
from access.service_secrets import ServiceSecretVerifier
from access.signing_keys import BadKey, FixedKey, PublishedKeys, fetch_from
from access.user_tokens import ALGORITHM as HS256
from access.user_tokens import (
    SECRET_BYTES_MIN,
    TENANTS_OF_USERS,
    Accounts,
    AccountsOnFirstSight,
    KnownAccounts,
    UserTokens,
    tenants_of,
)
from access.verifiers import Gate
from runtime.keyring import keyring
from runtime.settings import Settings, SettingsError
from store.api_keys import FIND, ApiKey
from store.first_sight import Seen, see

logger = logging.getLogger(__name__)

READ_WITHIN_S = 2.0
"""Verifying holds up requests, so it gets less time than other statements."""

ANY_SECRET = "SELECT FROM service_secrets WHERE expires_at IS NULL OR expires_at > now() LIMIT 1"  # noqa: S105 - a statement
ANY_KEY = "SELECT FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) LIMIT 1"

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
K = TypeVar("K")
V = TypeVar("V")


def gate_of(settings: Settings, pool: Pool, *, dev: bool = False, makes_accounts: bool = False) -> Gate:
    """The gate; its verifiers read through `pool` when they are asked. Raises SettingsError for a key that is none.

    With `makes_accounts` every user whose token is verified has an account before anything is done for it.
    """
    read_within_s = min(READ_WITHIN_S, settings.postgres_timeout_s)
    keys = keyring(settings)
    tokens: dict[str, TokenVerifier] = {}
    if settings.jwt_access_secret is not None:
        accounts: Accounts = KnownAccounts(Lookups(_reader(pool, TENANTS_OF_USERS, tenants_of, read_within_s)))
        if makes_accounts:
            accounts = AccountsOnFirstSight(Lookups(_seer(pool, read_within_s)))
        tokens[HS256] = UserTokens(settings.jwt_access_secret.get_secret_value(), accounts)
    signing = _signing_keys(settings)
    if signing is not None:
        parties = [party.strip() for party in settings.clerk_authorized_parties.split(",") if party.strip()]
        tokens[RS256] = ClerkTokens(signing, settings.clerk_issuer, parties)
    api_keys = None
    if keys is not None:
        rows: Lookups[bytes, ApiKey] = Lookups(_reader(pool, FIND, keys_by_lookup, read_within_s))

        async def any_valid() -> bool:
            try:
                return bool(await _rows(pool, ANY_KEY, None, read_within_s))
            except LookupAway:
                raise AccessRefused(503, "store_unavailable", "Keys cannot be read while Postgres is away.") from None

        api_keys = ApiKeys(keys, rows, any_valid)
    secrets = ServiceSecretVerifier(service_secrets.reader(pool, read_within_s))
    limits = RateLimits(
        {
            "service": settings.rate_limit_service_per_s,
            "key": settings.rate_limit_key_per_s,
            "user": settings.rate_limit_user_per_s,
            "member": settings.rate_limit_user_per_s,
        }
    )
    return Gate([secrets, BearerVerifier(api_keys, tokens)], limits, dev=dev)


def told_of(settings: Settings) -> list[str]:
    """What somebody should know of these settings, though they work; for the log and the doctor."""
    told = []
    secret = settings.jwt_access_secret
    if secret is not None and len(secret.get_secret_value().encode()) < SECRET_BYTES_MIN:
        told.append(
            f"JWT_ACCESS_SECRET is shorter than {SECRET_BYTES_MIN} bytes and can be guessed from one token; use a longer one"
        )
    if (settings.clerk_jwt_key or settings.clerk_issuer) and not settings.clerk_authorized_parties:
        told.append("METERLINE_CLERK_AUTHORIZED_PARTIES names no origin, so Clerk tokens of any origin pass; name yours")
    return told


def somebody_may_come_in(settings: Settings, connection: psycopg.Connection[Any]) -> bool:
    """Whether a verifier is configured that could let anybody in. Raises psycopg.Error, SettingsError."""
    if settings.jwt_access_secret is not None or _signing_keys(settings) is not None:
        return True
    if connection.execute(ANY_SECRET).fetchone() is not None:
        return True
    return keyring(settings) is not None and connection.execute(ANY_KEY).fetchone() is not None


def _signing_keys(settings: Settings) -> SigningKeys | None:
    if settings.clerk_jwt_key:
        try:
            return FixedKey(settings.clerk_jwt_key)
        except BadKey as error:
            raise SettingsError(f"METERLINE_CLERK_JWT_KEY: {error}") from None
    if settings.clerk_issuer is None:
        return None
    url = urlsplit(settings.clerk_issuer)
    if url.scheme != "https" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise SettingsError("METERLINE_CLERK_ISSUER: keys are fetched from there, so it must begin with https://")
    return PublishedKeys(fetch_from(settings.clerk_issuer.rstrip("/") + "/.well-known/jwks.json"))


def _reader(pool: Pool, sql: str, of_rows: Any, within_s: float) -> Read[K, V]:
    async def read(keys: Sequence[K]) -> Mapping[K, V]:
        found: Mapping[K, V] = of_rows(await _rows(pool, sql, (list(keys),), within_s))
        return found

    return read


def _seer(pool: Pool, within_s: float) -> Read[Seen, str]:
    async def read(users: Sequence[Seen]) -> Mapping[Seen, str]:
        async with _connection(pool, within_s) as connection:
            tenants = await see(connection, users)
        return {user: tenants[user.user_id] for user in users if user.user_id in tenants}

    return read


async def _rows(pool: Pool, sql: str, parameters: Any, within_s: float) -> list[tuple[Any, ...]]:
    async with _connection(pool, within_s) as connection:
        cursor = await connection.execute(sql.encode(), parameters)
        return await cursor.fetchall()


@asynccontextmanager
async def _connection(pool: Pool, within_s: float) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Raises LookupAway when it is not had, or what it is used for is not done, in time."""
    try:
        async with asyncio.timeout(within_s), pool.connection(timeout=within_s) as connection:
            yield connection
    except (psycopg.Error, PoolTimeout, TimeoutError) as error:
        logger.warning("credentials cannot be read", extra={"error": str(error) or type(error).__name__})
        raise LookupAway from error
