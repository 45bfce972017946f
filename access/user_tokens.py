"""User tokens: HS256 with the secret that the authentication service shares with us.

Claims: `sub`, `exp`, and optionally `username`, `email`, `role` (user, supervisor, admin; user when absent) and `tenantId`.
A token whose `aud` names an audience is refused, as the standard has it: it was issued to be shown to somebody else.

The tenant is the claim `tenantId`, else that of the user's account, else the answer is 403 `no_tenant`. Where accounts are
made on first sight, which is the control plane, a claim that contradicts the account is refused. Accounts are read and made
with the bounds of `access.lookups`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast

from access.bearer import Verified, claims_of, no_tenant, text_claim, wrong_token
from access.lookups import Lookups
from access.principals import ROLES_OF, AccessRefused, Principal, Who
from store.first_sight import Seen

ALGORITHM: Final = "HS256"
SECRET_BYTES_MIN: Final = 32
"""What the standard wants of a shared secret."""


class Accounts(Protocol):
    """Knows the tenants of users."""

    async def tenant_of(self, user: Seen) -> str:
        """The tenant that the user acts in. Asked with every request. Raises AccessRefused 403, 503."""
        ...


class KnownAccounts:
    """The claim, else the account. Makes none."""

    def __init__(self, tenants: Lookups[str, str]) -> None:
        """`tenants` by user."""
        self._tenants = tenants

    async def tenant_of(self, user: Seen) -> str:
        tenant_id = user.tenant_id or await self._tenants.get(user.user_id)
        if tenant_id is None:
            raise no_tenant("have the claim tenantId added, or the user's account put into a tenant")
        return tenant_id


class AccountsOnFirstSight:
    """The account's, which is found or made, and kept as the tokens say."""

    def __init__(self, tenants: Lookups[Seen, str]) -> None:
        """`tenants` by user as seen, so that what a token says anew is written at once."""
        self._tenants = tenants

    async def tenant_of(self, user: Seen) -> str:
        tenant_id = await self._tenants.get(user)
        if tenant_id is None:
            raise no_tenant("have the claim tenantId name a tenant that there is, or the user's account put into one")
        if user.tenant_id not in (None, tenant_id):
            raise AccessRefused(
                403,
                "another_tenant",
                "The token names another tenant than the user's account, whose credits lie there; "
                "have the claim tenantId corrected, or a user of its own made for the other tenant.",
            )
        return tenant_id


class UserTokens:
    """Verifies them. For one event loop."""

    def __init__(self, secret: str, accounts: Accounts) -> None:
        # HMAC fills a short key up with zeros by itself. Done here, the library does not warn of each token that the key is
        # shorter than the standard wants: that is said once, when the process starts, for the secret is not ours to choose.
        self._secret = secret.encode().ljust(SECRET_BYTES_MIN, b"\0")
        self._accounts = accounts

    async def verified(self, token: str, header: dict[str, Any]) -> Verified:
        verified = claims_of(token, self._secret, ALGORITHM, [])
        role = text_claim(verified.claims, "role") or "user"
        if role not in ROLES_OF["user"] or text_claim(verified.claims, "sub") is None:
            raise wrong_token()
        for name in ("username", "email", "tenantId"):
            text_claim(verified.claims, name)
        return verified

    async def principal(self, verified: Verified) -> Principal:
        claims = verified.claims
        user = Seen(
            cast(str, claims["sub"]),
            claims.get("tenantId") or None,
            claims.get("username") or None,
            claims.get("email") or None,
            claims.get("role") or "user",
        )
        tenant_id = await self._accounts.tenant_of(user)
        return Principal(
            "user",
            user.user_id,
            tenant_id,
            role=cast(Who, user.role),
            user_id=user.user_id,
            username=user.username,
            email=user.email,
        )


TENANTS_OF_USERS: Final = "SELECT user_id, tenant_id FROM users WHERE user_id = ANY(%s) AND tenant_id IS NOT NULL"


def tenants_of(rows: Sequence[tuple[Any, ...]]) -> Mapping[str, str]:
    """By user."""
    return {str(user_id): str(tenant_id) for user_id, tenant_id in rows}
