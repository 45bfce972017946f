"""User tokens: HS256 with the secret that the authentication service shares with us.

Claims: `sub`, `exp`, and optionally `username`, `email`, `role` (user, supervisor, admin; user when absent) and `tenantId`.
A token whose `aud` names an audience is refused, as the standard has it: it was issued to be shown to somebody else.

The tenant is the claim `tenantId`, else that of the user's account, else the answer is 403 `no_tenant`. The account is read
with the bounds of `access.lookups`; making it on first sight is the control plane's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from access.bearer import Verified, claims_of, no_tenant, text_claim, wrong_token
from access.lookups import Lookups
from access.principals import ROLES_OF, Principal, Who

ALGORITHM: Final = "HS256"
SECRET_BYTES_MIN: Final = 32
"""What the standard wants of a shared secret."""


class UserTokens:
    """Verifies them. For one event loop."""

    def __init__(self, secret: str, tenant_of_user: Lookups[str, str]) -> None:
        # HMAC fills a short key up with zeros by itself. Done here, the library does not warn of each token that the key is
        # shorter than the standard wants: that is said once, when the process starts, for the secret is not ours to choose.
        self._secret = secret.encode().ljust(SECRET_BYTES_MIN, b"\0")
        self._tenant_of_user = tenant_of_user

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
        user_id = cast(str, claims["sub"])
        tenant_id = claims.get("tenantId") or await self._tenant_of_user.get(user_id)
        if tenant_id is None:
            raise no_tenant("have the claim tenantId added, or the user's account put into a tenant")
        return Principal(
            "user",
            user_id,
            tenant_id,
            role=cast(Who, claims.get("role") or "user"),
            user_id=user_id,
            username=claims.get("username") or None,
            email=claims.get("email") or None,
        )


TENANTS_OF_USERS: Final = "SELECT user_id, tenant_id FROM users WHERE user_id = ANY(%s) AND tenant_id IS NOT NULL"


def tenants_of(rows: Sequence[tuple[Any, ...]]) -> Mapping[str, str]:
    """By user."""
    return {str(user_id): str(tenant_id) for user_id, tenant_id in rows}
