"""Rows of accounts and of how they were made."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    LargeBinary,
    Row,
    Table,
    Text,
    and_,
    column,
    func,
    literal_column,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as upsert

from control_plane.accounts.schemas import Account, Creation, KeyShown, NewAccount
from control_plane.metadata import METADATA
from control_plane.unit import Unit

KEYS_SHOWN_MAX: Final = 100
UNDER_WAY_S: Final = 60
"""How long a call that began an account has for it, before the loop goes on with it: longer than any call."""
LATER_S_MAX: Final = 3_600

ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("app_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)
CREATIONS: Final = Table(
    "account_creations",
    METADATA,
    Column("app_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("email", Text),
    Column("source_services", ARRAY(Text)),
    Column("secret_id", Text),
    Column("reason", Text),
    Column("tries", Integer, nullable=False),
    Column("begun_at", DateTime(timezone=True), nullable=False),
    Column("next_try_at", DateTime(timezone=True), nullable=False),
)
# Of the stages that share them; not declared here a second time.
_TENANTS: Final = table("tenants", *map(column, ("tenant_id", "name", "plan_id", "status", "anchor_day", "stripe_customer_id")))
_KEYS: Final = table(
    "api_keys",
    *map(column, ("key_id", "tenant_id", "name", "shown", "source_services")),
    *map(column, ("created_at", "expires_at", "revoked_at", "last_used_at")),
)
_SECRETS: Final = table("api_key_secrets", column("secret_id"), column("key_id"))


def _seconds(count: int) -> Any:
    return literal_column(f"interval '{int(count)} seconds'")


# -- how it is made ------------------------------------------------------------------------------------------------


def begin(unit: Unit, app_id: str, wanted: NewAccount) -> bool:
    """Notes the beginning; False where the organization's account was begun before."""
    row = {
        "app_id": app_id,
        "tenant_id": wanted.organization_id,
        **_asked(wanted),
        "state": "begun",
        "tries": 0,
        "begun_at": func.now(),
        "next_try_at": func.now() + _seconds(UNDER_WAY_S),
    }
    added = upsert(CREATIONS).values(row).on_conflict_do_nothing(index_elements=["tenant_id"]).returning(CREATIONS.c.app_id)
    return unit.sql.execute(added).first() is not None


def begin_again(unit: Unit, app_id: str, wanted: NewAccount) -> None:
    """A refused one, with what is asked for now."""
    again = {"state": "begun", "reason": None, "tries": 0, "next_try_at": func.now() + _seconds(UNDER_WAY_S)}
    unit.sql.execute(update(CREATIONS).where(CREATIONS.c.app_id == app_id).values(**_asked(wanted), **again))


def _asked(wanted: NewAccount) -> dict[str, Any]:
    return {
        "digest": wanted.digest,
        "name": wanted.name,
        "email": wanted.email,
        "source_services": list(wanted.source_services) or None,
    }


def locked(unit: Unit, tenant_id: str) -> Creation | None:
    """The organization's creation, which nobody else moves until the unit ends."""
    row = unit.sql.execute(select(CREATIONS).where(CREATIONS.c.tenant_id == tenant_id).with_for_update()).first()
    return None if row is None else _creation(row)


def move(unit: Unit, app_id: str, **values: Any) -> None:
    """Sets columns of a creation that is locked."""
    unit.sql.execute(update(CREATIONS).where(CREATIONS.c.app_id == app_id).values(**values))


def take_due(unit: Unit, most: int) -> list[Creation]:
    """Unfinished ones whose time has come, put off by a wait that doubles: two takers never get the same."""
    due = (
        select(CREATIONS.c.app_id)
        .where(CREATIONS.c.state.in_(("begun", "customer")), CREATIONS.c.next_try_at <= func.now())
        .order_by(CREATIONS.c.next_try_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    wait = func.least(literal_column(str(UNDER_WAY_S)) * func.power(2, func.least(CREATIONS.c.tries, 10)), LATER_S_MAX)
    taken = (
        update(CREATIONS)
        .where(CREATIONS.c.app_id.in_(due))
        .values(tries=CREATIONS.c.tries + 1, next_try_at=func.now() + wait * _seconds(1))
        .returning(CREATIONS)
    )
    return [_creation(row) for row in unit.sql.execute(taken)]


def _creation(row: Row[Any]) -> Creation:
    return Creation(
        app_id=row.app_id,
        tenant_id=row.tenant_id,
        digest=bytes(row.digest),
        state=row.state,
        name=row.name,
        email=row.email,
        source_services=tuple(row.source_services or ()),
        secret_id=row.secret_id,
        reason=row.reason,
        tries=row.tries,
    )


# -- what it is ----------------------------------------------------------------------------------------------------


def add_account(unit: Unit, app_id: str, tenant_id: str) -> None:
    """Harmless where it is there."""
    unit.sql.execute(upsert(ACCOUNTS).values(app_id=app_id, tenant_id=tenant_id, created_at=func.now()).on_conflict_do_nothing())


def app_of(unit: Unit, tenant_id: str) -> str | None:
    """The id of the tenant's account."""
    return unit.sql.execute(select(ACCOUNTS.c.app_id).where(ACCOUNTS.c.tenant_id == tenant_id)).scalar()


def account(unit: Unit, app_id: str) -> Account | None:
    """An account with its organization and its newest keys."""
    row = unit.sql.execute(
        select(ACCOUNTS, _TENANTS)
        .join_from(ACCOUNTS, _TENANTS, ACCOUNTS.c.tenant_id == _TENANTS.c.tenant_id)
        .where(ACCOUNTS.c.app_id == app_id)
    ).first()
    if row is None:
        return None
    keys = unit.sql.execute(
        select(_KEYS, _SECRETS.c.secret_id)
        .join_from(_KEYS, _SECRETS, and_(_KEYS.c.key_id == _SECRETS.c.key_id), isouter=True)
        .where(_KEYS.c.tenant_id == row.tenant_id)
        .order_by(_KEYS.c.created_at.desc(), _KEYS.c.key_id)
        .limit(KEYS_SHOWN_MAX)
    )
    return Account(
        app_id=row.app_id,
        tenant_id=row.tenant_id,
        name=row.name,
        status=row.status,
        plan_id=row.plan_id,
        customer_id=row.stripe_customer_id,
        anchor_day=row.anchor_day,
        created_at=row.created_at,
        keys=tuple(
            KeyShown(
                key_id=key.key_id,
                secret_id=key.secret_id,
                name=key.name,
                shown=key.shown,
                source_services=tuple(key.source_services),
                created_at=key.created_at,
                expires_at=key.expires_at,
                revoked_at=key.revoked_at,
                last_used_at=key.last_used_at,
            )
            for key in keys
        ),
    )


# -- the organization ----------------------------------------------------------------------------------------------


def plan_exists(unit: Unit, plan_id: str) -> bool:
    plans = table("plans", column("plan_id"))
    return unit.sql.execute(select(plans).where(plans.c.plan_id == plan_id)).first() is not None


def add_tenant(unit: Unit, wanted: NewAccount) -> str | None:
    """The organization, made where it was not there, and given a name and a plan where it has none; returns its plan."""
    row = {
        "tenant_id": wanted.organization_id,
        "name": wanted.name,
        "plan_id": wanted.plan_id,
        "anchor_day": wanted.anchor_day,
    }
    unit.sql.execute(upsert(_TENANTS).values(row).on_conflict_do_nothing())
    mine = _TENANTS.c.tenant_id == wanted.organization_id
    unit.sql.execute(update(_TENANTS).where(mine, _TENANTS.c.name == "").values(name=wanted.name))
    unit.sql.execute(update(_TENANTS).where(mine, _TENANTS.c.plan_id.is_(None)).values(plan_id=wanted.plan_id))
    plan: str | None = unit.sql.execute(select(_TENANTS.c.plan_id).where(mine)).scalar_one()
    return plan
