"""Clerk's session tokens: RS256, with an instance's public key from the settings or from its published key set.

The active organization is the tenant. Version 2 of the claims has it in `o` ({id, rol}), version 1 in `org_id` and `org_role`;
a token says which by `v`, and the other form's claims are then not looked at. Without an active organization: 403 `no_tenant`.

Roles: `admin` and `billing` are what they say; every other role of an organization is a member, which may read.
A session that is not complete yet (`sts: pending`) is refused. `azp`, the origin that the token was issued to, must be one
of those allowed, where any are named; a token without it (from an application that is no web page) passes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Protocol

from access.bearer import Verified, claims_of, no_tenant, text_claim, wrong_token
from access.principals import AccessRefused, Principal, Who

ALGORITHM: Final = "RS256"
_ROLES: Final[dict[str, Who]] = {"admin": "org_admin", "billing": "org_billing"}


class SigningKeys(Protocol):
    """Where the public key comes from."""

    async def key(self, key_id: str | None) -> Any:
        """The key that a token names; None when there is none of that name. Raises AccessRefused 503."""
        ...


class ClerkTokens:
    """Verifies them."""

    def __init__(self, keys: SigningKeys, issuer: str | None, authorized_parties: Collection[str]) -> None:
        """`issuer` None: the key alone says whose tokens they are."""
        self._keys = keys
        self._issuer = issuer
        self._authorized_parties = frozenset(authorized_parties)

    async def verified(self, token: str, header: dict[str, Any]) -> Verified:
        key_id = header.get("kid")
        key = await self._keys.key(key_id if isinstance(key_id, str) else None)
        if key is None:
            raise wrong_token()
        # Without a nbf a token would be valid before it was issued.
        verified = claims_of(token, key, ALGORITHM, ["nbf", "iss"], self._issuer)
        claims = verified.claims
        if text_claim(claims, "sub") is None:
            raise wrong_token()
        if claims.get("sts") == "pending":
            raise AccessRefused(401, "pending_session", "The Clerk session is not complete yet; let the user finish signing in.")
        party = text_claim(claims, "azp", 2048)
        if self._authorized_parties and party is not None and party not in self._authorized_parties:
            raise AccessRefused(
                401, "wrong_party", "The token was issued to an origin that is not in METERLINE_CLERK_AUTHORIZED_PARTIES; add it."
            )
        _organization(claims)
        return verified

    async def principal(self, verified: Verified) -> Principal:
        claims = verified.claims
        tenant_id, role = _organization(claims)
        if tenant_id is None:
            raise no_tenant("choose an active organization in Clerk")
        user_id: str = claims["sub"]
        return Principal(
            "member",
            f"{user_id}@{tenant_id}",
            tenant_id,
            role=_ROLES.get(role or "", "org_member"),
            user_id=user_id,
            email=text_claim(claims, "email"),
        )


def _organization(claims: dict[str, Any]) -> tuple[str | None, str | None]:
    """(its id, the role in it) as this version of the claims has them; (None, None) when none is active."""
    if claims.get("v") == 2:
        active = claims.get("o")
        if active is None:
            return None, None
        if not isinstance(active, dict):
            raise wrong_token()
        return text_claim(active, "id"), text_claim(active, "rol")
    role = text_claim(claims, "org_role")
    return text_claim(claims, "org_id"), None if role is None else role.removeprefix("org:")
