"""The table of customers, and what of `tenants` it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Row, Table, Text, column, delete, func, select, table, update
from sqlalchemy.dialects.postgresql import insert

from control_plane.metadata import METADATA
from control_plane.provider.values import Customer
from control_plane.unit import Unit

CUSTOMERS = Table(
    "customers",
    METADATA,
    Column("tenant_id", Text, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("provider_customer_id", Text),
    Column("making_key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("email", Text),
    Column("currency", Text),
    Column("default_payment_method_id", Text),
    Column("seen", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

TENANTS = table(
    "tenants",
    column("tenant_id"),
    column("name"),
    column("plan_id"),
    column("anchor_day"),
    column("subscription_status"),
    column("stripe_customer_id"),
)
"""What customers and subscriptions read and write of the catalog's table."""


def tenant(unit: Unit, tenant_id: str, *, lock: bool = False) -> Row[Any] | None:
    """The tenant's row; `lock`: nobody else changes what its provider says of it until the transaction ends."""
    statement = select(TENANTS).where(TENANTS.c.tenant_id == tenant_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    return unit.sql.execute(statement).one_or_none()


def customer(unit: Unit, tenant_id: str) -> Row[Any] | None:
    """The customer's row."""
    return unit.sql.execute(select(CUSTOMERS).where(CUSTOMERS.c.tenant_id == tenant_id)).one_or_none()


def provider_id(unit: Unit, provider: str, tenant_id: str) -> str | None:
    """The id of the tenant's customer at the provider; also of one that `meterline stripe setup` made, which has no row yet."""
    row = customer(unit, tenant_id)
    if row is not None and row.provider == provider:
        return row.provider_customer_id if row.state == "made" else None
    found = tenant(unit, tenant_id) if provider == "stripe" and row is None else None
    return None if found is None else found.stripe_customer_id


def tenant_of(unit: Unit, provider: str, provider_customer_id: str) -> str | None:
    """Whose customer it is."""
    found = unit.sql.execute(
        select(CUSTOMERS.c.tenant_id).where(
            CUSTOMERS.c.provider == provider, CUSTOMERS.c.provider_customer_id == provider_customer_id
        )
    ).scalar_one_or_none()
    if found is None and provider == "stripe":
        found = unit.sql.execute(
            select(TENANTS.c.tenant_id).where(TENANTS.c.stripe_customer_id == provider_customer_id)
        ).scalar_one_or_none()
    return found


def intend(unit: Unit, tenant_id: str, provider: str, key: str, name: str, email: str | None) -> None:
    """Says, before the provider is asked, under which key and with what it will be; the first to say so is heard."""
    unit.sql.execute(
        insert(CUSTOMERS)
        .values(tenant_id=tenant_id, provider=provider, state="making", making_key=key, name=name, email=email, seen=0)
        .on_conflict_do_nothing(index_elements=["tenant_id"])
    )


def give_up(unit: Unit, tenant_id: str, key: str) -> None:
    """The provider refused it, so the intent under this key is none any more."""
    unit.sql.execute(
        delete(CUSTOMERS).where(CUSTOMERS.c.tenant_id == tenant_id, CUSTOMERS.c.state == "making", CUSTOMERS.c.making_key == key)
    )


def made(unit: Unit, tenant_id: str, provider: str, customer_id: str) -> bool:
    """Records the provider's id; False where one is on record already."""
    changed = unit.sql.execute(
        update(CUSTOMERS)
        .where(CUSTOMERS.c.tenant_id == tenant_id, CUSTOMERS.c.state == "making")
        .values(state="made", provider_customer_id=customer_id, changed_at=func.now())
    ).rowcount
    if provider == "stripe":
        _name_at_tenant(unit, tenant_id, customer_id)
    return bool(changed)


def put(unit: Unit, tenant_id: str, provider: str, found: Customer, seen: int) -> bool:
    """What the provider says, unless a later observation stands; whether anything changed."""
    values = {
        "provider_customer_id": found.id,
        "state": "made",
        "name": found.name,
        "email": found.email,
        "currency": found.currency,
        "default_payment_method_id": found.default_payment_method_id,
        "seen": seen,
        "changed_at": func.now(),
    }
    statement = insert(CUSTOMERS).values(tenant_id=tenant_id, provider=provider, making_key="", **values)
    result = unit.sql.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id"],
            set_=values,
            where=(CUSTOMERS.c.seen < seen) & (CUSTOMERS.c.state != "deleted"),
        ).returning(CUSTOMERS.c.tenant_id)
    )
    if provider == "stripe":
        _name_at_tenant(unit, tenant_id, found.id)
    return result.first() is not None


def mark_deleted(unit: Unit, provider: str, customer_id: str) -> bool:
    """The provider's customer is gone, for good."""
    return bool(
        unit.sql.execute(
            update(CUSTOMERS)
            .where(
                CUSTOMERS.c.provider == provider,
                CUSTOMERS.c.provider_customer_id == customer_id,
                CUSTOMERS.c.state != "deleted",
            )
            .values(state="deleted", default_payment_method_id=None, changed_at=func.now())
        ).rowcount
    )


def page(unit: Unit, after: str | None, limit: int) -> Sequence[Row[Any]]:
    """By tenant, after a tenant."""
    statement = select(CUSTOMERS).order_by(CUSTOMERS.c.tenant_id).limit(limit)
    if after is not None:
        statement = statement.where(CUSTOMERS.c.tenant_id > after)
    return unit.sql.execute(statement).all()


def _name_at_tenant(unit: Unit, tenant_id: str, customer_id: str) -> None:
    """Where the exporter looks for it."""
    unit.sql.execute(
        update(TENANTS)
        .where(TENANTS.c.tenant_id == tenant_id, TENANTS.c.stripe_customer_id.is_(None))
        .values(stripe_customer_id=customer_id)
    )
