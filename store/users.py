"""The accounts of users, as the authentication service names them in its tokens (`store.first_sight` makes them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Connection


@dataclass(frozen=True)
class User:
    """A row of users."""

    user_id: str
    tenant_id: str | None
    username: str
    email: str | None
    role: str


# By both in one statement, the id first: somebody's id may look like another one's address.
_FIND = """
SELECT user_id, tenant_id, username, email, role FROM users
 WHERE tenant_id = %(tenant)s AND (user_id = %(name)s OR lower(email) = lower(%(name)s))
 ORDER BY user_id <> %(name)s
 LIMIT 1
"""


def find(connection: Connection[Any], tenant_id: str, id_or_email: str) -> User | None:
    """The user of that id, else of that e-mail address in any case, within the tenant; one of another tenant is not found."""
    row = connection.execute(_FIND, {"tenant": tenant_id, "name": id_or_email}).fetchone()
    return None if row is None else User(*row)
