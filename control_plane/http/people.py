"""Users as endpoints meet them: who asks for oneself, and who may ask for others of the tenant."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Path

from access.principals import Who
from control_plane.http.calls import Call
from control_plane.refusals import not_found
from store import users
from store.credits import Owner
from store.users import User

USERS: Final[frozenset[Who]] = frozenset({"user", "supervisor", "admin"})
"""Everybody with an account of credits."""
SUPERVISORS: Final[frozenset[Who]] = frozenset({"supervisor", "admin"})
"""Who may see what one user has."""
ADMINS: Final[frozenset[Who]] = frozenset({"admin"})
"""Who may see what all have."""

UserGiven = Annotated[str, Path(description="The user's id or e-mail address, URL-encoded.", max_length=512)]


def own(call: Call) -> Owner:
    """The caller's own account."""
    assert call.principal.user_id is not None, "only users come in here"
    return Owner(call.tenant(), call.principal.user_id)


def of_tenant(call: Call, id_or_email: str) -> User:
    """The user of the caller's tenant. Raises Refusal for one that there is not, or of another tenant."""
    with call.unit() as unit:
        user = users.find(unit.pg, call.tenant(), id_or_email)
    if user is None:
        raise not_found("user")
    return user
