"""Public keys of a token's issuer: one from the settings, or the issuer's published set with its rotations."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from access.principals import AccessRefused

logger = logging.getLogger(__name__)

FRESH_S: Final = 600.0
"""A key that the issuer withdrew counts for this long, and for the time that verified tokens are remembered."""
READ_AGAIN_S: Final = 30.0
"""The least time between two readings: tokens with made-up key names cause no more."""
STALE_MAX_S: Final = 86_400.0
"""How long the last set serves while the issuer is away: it signs for days with one key."""
FETCH_WITHIN_S: Final = 3.0
SET_BYTES_MAX: Final = 256 << 10
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048


class BadKey(ValueError):
    """No public key that could verify RS256; the message says why and shows nothing of it."""


def pem_key(text: str) -> RSAPublicKey:
    """The key of a PEM, whose line ends may be written as backslash and n, as environment files have them. Raises BadKey."""
    try:
        key = load_pem_public_key(text.replace("\\n", "\n").strip().encode())
    except ValueError:
        raise BadKey("it is no public key in PEM, which begins with -----BEGIN PUBLIC KEY-----") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < RSA_BITS_MIN:
        raise BadKey(f"it is no RSA key of {RSA_BITS_MIN} bits or more")
    return key


class FixedKey:
    """The one key of the settings, whatever a token calls it."""

    def __init__(self, pem: str) -> None:
        """Raises BadKey."""
        self._key = pem_key(pem)

    async def key(self, key_id: str | None) -> RSAPublicKey:
        return self._key


class KeysAway(Exception):
    """The issuer's key set cannot be read now."""


Fetch = Callable[[], Awaitable[Mapping[str, RSAPublicKey]]]
"""Reads the set. Raises KeysAway."""


class PublishedKeys:
    """The issuer's set, read when it is needed and kept. For one event loop."""

    def __init__(self, fetch: Fetch, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: Mapping[str, RSAPublicKey] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()

    async def key(self, key_id: str | None) -> RSAPublicKey | None:
        if key_id is None:
            return None
        if self._age_s() > FRESH_S or key_id not in self._keys:
            # A name that is new may be the key after a rotation.
            async with self._reading:
                if self._monotonic() - self._tried_at >= READ_AGAIN_S and (self._age_s() > FRESH_S or key_id not in self._keys):
                    await self._read()
        if self._age_s() > STALE_MAX_S:
            raise AccessRefused(503, "keys_unavailable", "The keys that sign tokens cannot be read now; try again shortly.")
        return self._keys.get(key_id)

    def _age_s(self) -> float:
        return self._monotonic() - self._read_at

    async def _read(self) -> None:
        try:
            self._keys = await self._fetch()
            self._read_at = self._monotonic()
        except KeysAway as error:
            logger.warning("the issuer's keys cannot be read", extra={"error": str(error), "age_s": self._age_s()})
        finally:
            self._tried_at = self._monotonic()


def fetch_from(url: str) -> Fetch:
    """Reads a JSON Web Key Set over HTTP, within FETCH_WITHIN_S, following no redirect."""

    async def fetch() -> Mapping[str, RSAPublicKey]:
        try:
            async with (
                asyncio.timeout(FETCH_WITHIN_S),
                httpx.AsyncClient(timeout=FETCH_WITHIN_S) as client,
                client.stream("GET", url, headers={"Accept": "application/json"}) as answer,
            ):
                if answer.status_code != 200:
                    raise KeysAway(f"status {answer.status_code}")
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > SET_BYTES_MAX:
                        raise KeysAway(f"the set is larger than {SET_BYTES_MAX} bytes")
        except (httpx.HTTPError, TimeoutError, AttributeError) as error:
            # AttributeError: under uvloop, httpx's for a server that closes as it is connected to.
            raise KeysAway(f"{type(error).__name__}: {error}") from error
        return keys_of(body)

    return fetch


def keys_of(body: bytes) -> Mapping[str, RSAPublicKey]:
    """The keys of a set that can verify RS256, by name; others are left out. Raises KeysAway when it is no set."""
    try:
        listed: Any = json.loads(body)["keys"]
        assert isinstance(listed, list)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise KeysAway("the answer is no key set") from None
    keys: dict[str, RSAPublicKey] = {}
    for one in listed[:KEYS_MAX]:
        if not isinstance(one, dict) or not isinstance(one.get("kid"), str):
            continue
        if one.get("kty") != "RSA" or one.get("use", "sig") != "sig" or one.get("alg", "RS256") != "RS256":
            continue
        try:
            key = jwt.PyJWK(one, algorithm="RS256").key
        except jwt.PyJWTError:
            continue
        if isinstance(key, RSAPublicKey) and key.key_size >= RSA_BITS_MIN:
            keys[one["kid"]] = key
    return keys
