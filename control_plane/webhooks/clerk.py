"""Clerk's organizations, users and memberships, kept as tenants and users.

Its messages carry states and come in any order, so each is applied by what it says, not by when it came:
- the content of a thing is that of its latest change (`updated_at`); an older one that comes later changes nothing;
- a deletion is for good and stands beside the content, so that it makes no difference which of the two comes first;
- what a membership needs (its tenant, its user) is made with the membership, and named when its own message comes.

What becomes of what is deleted there:
- an organization: its tenant is `inactive`. Nothing is erased: usage, invoices and audit stay, and its subscriptions at the
  provider are not ended by themselves. Checks say that the tenant is inactive.
- a user: the row stays, for records hang on it; its e-mail address is let go of. `meterline forget` does the rest.
- a membership: the user belongs to the tenant of its oldest one that is left, or to none.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import psycopg

from control_plane.refusals import Refusal
from control_plane.unit import Unit
from runtime.locks import AdvisoryLock
from store.audit import Entry
from store.inbox import Taken

NOUNS: Final = {"organization": "organization", "user": "user", "organizationMembership": "membership"}

_SEEN = """
INSERT INTO clerk_objects AS seen (object_hash, kind, changed_ms, deleted, tenant_id, user_id, since_ms)
VALUES (%(hash)s, %(kind)s, %(at)s, %(deleted)s, %(tenant)s, %(user)s, %(since)s)
ON CONFLICT (object_hash) DO UPDATE
   SET changed_ms = greatest(seen.changed_ms, excluded.changed_ms), deleted = seen.deleted OR excluded.deleted,
       tenant_id = coalesce(seen.tenant_id, excluded.tenant_id), user_id = coalesce(seen.user_id, excluded.user_id),
       since_ms = coalesce(seen.since_ms, excluded.since_ms)
 WHERE (excluded.deleted AND NOT seen.deleted) OR excluded.changed_ms > seen.changed_ms
RETURNING deleted, user_id
"""

_NAME_TENANT = """
INSERT INTO tenants AS t (tenant_id, name, status) VALUES (%(tenant)s, %(name)s, %(status)s)
ON CONFLICT (tenant_id) DO UPDATE SET name = excluded.name, status = excluded.status
 WHERE (t.name, t.status) IS DISTINCT FROM (excluded.name, excluded.status)
"""

_NAME_USER = """
INSERT INTO users AS u (user_id, username, email, role) VALUES (%(user)s, %(username)s, %(email)s, 'user')
ON CONFLICT (user_id) DO UPDATE SET username = excluded.username, email = excluded.email
 WHERE (u.username, u.email) IS DISTINCT FROM (excluded.username, excluded.email)
"""

_DELETED = "SELECT EXISTS (SELECT FROM clerk_objects WHERE object_hash = %s AND deleted)"

_BELONGS = """
UPDATE users u
   SET tenant_id = (SELECT m.tenant_id FROM clerk_objects m
                     WHERE m.kind = 'membership' AND NOT m.deleted AND m.user_id = u.user_id
                     ORDER BY m.since_ms, m.object_hash LIMIT 1)
 WHERE user_id = %s
"""


def apply(unit: Unit, taken: Taken) -> bool:
    """Applies a message, in the unit; False for a kind that is not synced. Repeating it changes nothing.

    Raises Refusal where two users of one tenant would share an e-mail address.
    """
    noun, _, what = taken.kind.partition(".")
    if noun not in NOUNS or what not in ("created", "updated", "deleted"):
        return False
    # These are few, and touch each other's rows: one at a time.
    unit.pg.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.CLERK.value,))
    deleted = what == "deleted"
    news = _seen(unit, NOUNS[noun], taken, deleted=deleted)
    if news is None:
        return True
    gone, user_id = news
    try:
        match NOUNS[noun]:
            case "organization":
                _organization(unit, taken, gone=gone, deleted=deleted)
            case "user":
                _user(unit, taken, gone=gone, deleted=deleted)
            case _:
                _membership(unit, taken, user_id, deleted=deleted)
    except psycopg.errors.UniqueViolation:
        raise Refusal(
            "conflict",
            "email_taken",
            "Another user of the same tenant has this e-mail address; change one of the two, in Clerk or here.",
        ) from None
    tenant_id = taken.subject if taken.kind.startswith("organization.") else taken.kept.get("organization")
    unit.audit(Entry(f"clerk.{taken.kind}", taken.subject, after={"deleted": gone}, tenant_id=tenant_id))
    return True


def _seen(unit: Unit, kind: str, taken: Taken, *, deleted: bool) -> tuple[bool, str | None] | None:
    """(whether it is deleted by now, whose membership it is); None where the message brings nothing new."""
    row = unit.pg.execute(
        _SEEN,
        {
            "hash": _hash(kind, taken.subject),
            "kind": kind,
            "at": 0 if deleted else taken.kept["at_ms"],
            "deleted": deleted,
            "tenant": taken.kept.get("organization"),
            "user": taken.kept.get("user"),
            "since": taken.kept.get("since_ms"),
        },
    ).fetchone()
    return None if row is None else (row[0], row[1])


def _organization(unit: Unit, taken: Taken, *, gone: bool, deleted: bool) -> None:
    if deleted:
        unit.pg.execute("UPDATE tenants SET status = 'inactive' WHERE tenant_id = %s", (taken.subject,))
        return
    status = "inactive" if gone else "active"
    unit.pg.execute(_NAME_TENANT, {"tenant": taken.subject, "name": taken.kept["name"], "status": status})


def _user(unit: Unit, taken: Taken, *, gone: bool, deleted: bool) -> None:
    if deleted:
        unit.pg.execute("UPDATE users SET email = NULL WHERE user_id = %s", (taken.subject,))
        return
    email = None if gone else taken.kept["email"]
    unit.pg.execute(_NAME_USER, {"user": taken.subject, "username": taken.kept["username"], "email": email})


def _membership(unit: Unit, taken: Taken, user_id: str | None, *, deleted: bool) -> None:
    if not deleted:
        tenant_id = taken.kept["organization"]
        gone = _one(unit, _DELETED, (_hash("organization", tenant_id),))
        unit.pg.execute(
            "INSERT INTO tenants (tenant_id, status) VALUES (%s, %s) ON CONFLICT (tenant_id) DO NOTHING",
            (tenant_id, "inactive" if gone else "active"),
        )
        unit.pg.execute("INSERT INTO users (user_id, role) VALUES (%s, 'user') ON CONFLICT (user_id) DO NOTHING", (user_id,))
    if user_id is not None:
        unit.pg.execute(_BELONGS, (user_id,))


def _hash(kind: str, object_id: str) -> bytes:
    return hashlib.sha256(f"{kind}:{object_id}".encode()).digest()


def _one(unit: Unit, sql: str, parameters: tuple[Any, ...]) -> Any:
    row = unit.pg.execute(sql.encode(), parameters).fetchone()
    assert row is not None
    return row[0]
