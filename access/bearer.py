"""`Authorization: Bearer`: an API key, a user's token or a Clerk session, told apart by what they are.

A token's own header says how it is signed, and is used for one thing: to choose the verifier, which then allows exactly
its one algorithm with its own key. So a token cannot choose how it is verified: `none`, or HS256 over a public key, finds no
verifier or the wrong key.

A token that was verified is remembered by its hash, bounded in time and number, because a client sends the same one with
every request. It never outlives its own end, and a withdrawn signing key counts for REMEMBERED_S more at most.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt

from access.principals import AccessRefused, Principal
from access.verifiers import RawHeaders, only_header

HEADER: Final = b"authorization"
TOKEN_BYTES_MAX: Final = 8 << 10
REMEMBERED_S: Final = 60.0
REMEMBERED_MAX: Final = 10_000
LEEWAY_S: Final = 5.0
"""By how much the issuer's clock and ours may differ."""
KEY_PREFIX: Final = "sk_"


class KeyVerifier(Protocol):
    """Verifies API keys."""

    async def configured(self) -> bool: ...

    async def principal(self, key: str) -> Principal: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """A token whose signature and times are right."""

    claims: dict[str, Any]
    expires_at: float


class TokenVerifier(Protocol):
    """Verifies one kind of token."""

    async def verified(self, token: str, header: dict[str, Any]) -> Verified:
        """Raises AccessRefused: 401 when it is wrong, 503 when that cannot be known now."""
        ...

    async def principal(self, verified: Verified) -> Principal:
        """Whose it is. Raises AccessRefused 403, 503. Asked with every request, so it must be quick."""
        ...


class BearerVerifier:
    """Chooses by the credential. For one event loop."""

    presents = "Authorization: Bearer <token or API key>"

    def __init__(self, keys: KeyVerifier | None, tokens: dict[str, TokenVerifier], now: Callable[[], float] = time.time) -> None:
        """`tokens` by the one algorithm that each verifies."""
        self._keys = keys
        self._tokens = tokens
        self._now = now
        self._remembered: dict[bytes, tuple[TokenVerifier, Verified, float]] = {}

    async def configured(self) -> bool:
        return bool(self._tokens) or (self._keys is not None and await self._keys.configured())

    async def verify(self, headers: RawHeaders) -> Principal | None:
        value = only_header(headers, HEADER)
        if value is None:
            return None
        token = _token_of(value)
        if token.startswith(KEY_PREFIX):
            if self._keys is None:
                raise AccessRefused(401, "wrong_key", "API keys are not accepted here; METERLINE_SECRET_ENCRYPT_KEY is not set.")
            return await self._keys.principal(token)
        digest = hashlib.sha256(token.encode()).digest()
        now = self._now()
        remembered = self._remembered.get(digest)
        if remembered is None or now >= remembered[2]:
            remembered = self._remembered[digest] = await self._verified(token, now)
            if len(self._remembered) > REMEMBERED_MAX:
                del self._remembered[next(iter(self._remembered))]
        verifier, verified, _ = remembered
        return await verifier.principal(verified)

    async def _verified(self, token: str, now: float) -> tuple[TokenVerifier, Verified, float]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise wrong_token() from None
        algorithm = header.get("alg")
        verifier = self._tokens.get(algorithm) if isinstance(algorithm, str) else None
        if verifier is None:
            raise wrong_token()
        verified = await verifier.verified(token, header)
        return verifier, verified, min(now + REMEMBERED_S, verified.expires_at)


def wrong_token() -> AccessRefused:
    """One answer for all that is wrong with a token but its age: what it is in detail helps only who forges one."""
    return AccessRefused(401, "wrong_token", "The bearer token is not one that this server accepts; have a new one issued.")


def expired_token() -> AccessRefused:
    return AccessRefused(401, "expired_token", "The bearer token has expired; have a new one issued.")


def no_tenant(remedy: str) -> AccessRefused:
    return AccessRefused(403, "no_tenant", f"The token is valid, but belongs to no tenant; {remedy}.")


def claims_of(token: str, key: Any, algorithm: str, required: list[str], issuer: str | None = None) -> Verified:
    """The claims of a token that is signed with `key` by that one algorithm, at its time. Raises AccessRefused 401."""
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            leeway=LEEWAY_S,
            issuer=issuer,
            options={"require": ["exp", "sub", *required]},
        )
    except jwt.ExpiredSignatureError:
        raise expired_token() from None
    except jwt.PyJWTError:
        raise wrong_token() from None
    return Verified(claims, float(claims["exp"]) + LEEWAY_S)


def text_claim(claims: dict[str, Any], name: str, bytes_max: int = 256) -> str | None:
    """A claim that is a text; None when it is absent, null or empty. Raises 401 for another type, or a longer one."""
    value = claims.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value.encode(errors="replace")) > bytes_max or not value.isprintable():
        raise wrong_token()
    return value


def _token_of(value: bytes) -> str:
    scheme, _, token = value.partition(b" ")
    token = token.strip(b" ")
    if scheme.lower() != b"bearer" or not token or len(token) > TOKEN_BYTES_MAX or not token.isascii():
        raise AccessRefused(401, "bad_credentials", "Authorization is not `Bearer <token>`; send it so, or leave it out.")
    return token.decode("ascii")
