"""Users as their tokens name them: each has an account, found or made when a token is first seen, and kept like the token.

The authentication service is the authority for name, e-mail and role. It is not for the tenant: credits lie there, so an
account's tenant is set once, by the first token that names a tenant that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation


@dataclass(frozen=True, slots=True)
class Seen:
    """A user as a verified token names it. What is None the token does not say, and leaves as it stands."""

    user_id: str
    tenant_id: str | None
    username: str | None
    email: str | None
    role: str


RACES_MAX: Final = 3
"""Tries to write an address that others write at the same time; then the account goes without it until it is seen again."""

_FOUND = "SELECT user_id, tenant_id, username, email, role FROM users WHERE user_id = ANY(%s)"

# An address that another account of the tenant has is left out: a look-up by address has to mean one person.
_KEEP = """
INSERT INTO users AS u (user_id, tenant_id, username, email, role)
SELECT %(user)s, t.tenant_id, coalesce(%(username)s, ''),
       CASE WHEN NOT EXISTS (SELECT FROM users o WHERE o.user_id <> %(user)s AND lower(o.email) = lower(%(email)s)
                                AND o.tenant_id IS NOT DISTINCT FROM t.tenant_id)
            THEN %(email)s END,
       %(role)s
  FROM (SELECT coalesce((SELECT tenant_id FROM users WHERE user_id = %(user)s),
                        (SELECT tenant_id FROM tenants WHERE tenant_id = %(tenant)s)) AS tenant_id) t
    ON CONFLICT (user_id) DO UPDATE
   SET tenant_id = coalesce(u.tenant_id, excluded.tenant_id), username = coalesce(nullif(excluded.username, ''), u.username),
       email = coalesce(excluded.email, u.email), role = excluded.role
RETURNING tenant_id
"""


async def see(connection: AsyncConnection[Any], users: Sequence[Seen]) -> Mapping[str, str]:
    """The tenant of each user's account, by user id; accounts are made, and changed as the tokens say. Leaves out who has none.

    A user whose account is as the token says costs one look, shared by all. Of several tokens of one user the last one
    counts. Repeating is harmless.
    """
    wanted = {user.user_id: user for user in users}
    cursor = await connection.execute(_FOUND, (list(wanted),))
    found = {row[0]: Seen(*row) for row in await cursor.fetchall()}
    tenants = {}
    # In the order of ids: two servers that see the same users at once do not wait for each other crosswise.
    for user_id, user in sorted(wanted.items()):
        account = found.get(user_id)
        as_it_says = account is not None and account == _kept(account, user)
        tenants[user_id] = account.tenant_id if account is not None and as_it_says else await _keep(connection, user)
    return {user_id: tenant_id for user_id, tenant_id in tenants.items() if tenant_id is not None}


def _kept(account: Seen, user: Seen) -> Seen:
    """What the account would become."""
    return Seen(
        account.user_id,
        account.tenant_id or user.tenant_id,
        user.username or account.username,
        user.email or account.email,
        user.role,
    )


async def _keep(connection: AsyncConnection[Any], user: Seen) -> str | None:
    for race in range(RACES_MAX + 1):
        said = user if race < RACES_MAX else replace(user, email=None)
        parameters = {
            "user": said.user_id,
            "tenant": said.tenant_id,
            "username": said.username,
            "email": said.email,
            "role": said.role,
        }
        try:
            async with connection.transaction():
                cursor = await connection.execute(_KEEP, parameters)
        except UniqueViolation:
            # Another server gave the address to another account between our look and our write.
            continue
        row = await cursor.fetchone()
        assert row is not None
        return None if row[0] is None else str(row[0])
    raise AssertionError("without an address there is nothing to race for")
