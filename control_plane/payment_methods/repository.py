"""The table of payment methods."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Row, Table, Text, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from control_plane.metadata import METADATA
from control_plane.provider.values import PaymentMethod
from control_plane.unit import Unit

METHODS = Table(
    "payment_methods",
    METADATA,
    Column("provider", Text, primary_key=True),
    Column("provider_method_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("last4", Text),
    Column("attached", Boolean, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)


def method(unit: Unit, provider: str, method_id: str) -> Row[Any] | None:
    """The method's row."""
    return unit.sql.execute(
        select(METHODS).where(METHODS.c.provider == provider, METHODS.c.provider_method_id == method_id)
    ).one_or_none()


def put(unit: Unit, provider: str, tenant_id: str, found: PaymentMethod, seen: int) -> bool:
    """What was seen, unless a later observation stands; whether it was taken. What was taken away stays so."""
    values = {"kind": found.kind, "last4": found.last4, "attached": True, "seen": seen, "changed_at": func.now()}
    statement = insert(METHODS).values(
        provider=provider, provider_method_id=found.id, tenant_id=tenant_id, created_at=found.created, **values
    )
    result = unit.sql.execute(
        statement.on_conflict_do_update(
            index_elements=["provider", "provider_method_id"],
            set_=values,
            where=(METHODS.c.seen < seen) & METHODS.c.attached & (METHODS.c.tenant_id == tenant_id),
        ).returning(METHODS.c.provider_method_id)
    )
    return result.first() is not None


def detach(unit: Unit, provider: str, method_id: str) -> bool:
    """It was taken away, for good."""
    return bool(
        unit.sql.execute(
            update(METHODS)
            .where(METHODS.c.provider == provider, METHODS.c.provider_method_id == method_id, METHODS.c.attached)
            .values(attached=False, changed_at=func.now())
        ).rowcount
    )


def page(unit: Unit, tenant_id: str, after: tuple[datetime, str] | None, limit: int) -> Sequence[Row[Any]]:
    """The tenant's methods, oldest first, after (created, id)."""
    order = (METHODS.c.created_at, METHODS.c.provider_method_id)
    statement = select(METHODS).where(METHODS.c.tenant_id == tenant_id, METHODS.c.attached).order_by(*order).limit(limit)
    if after is not None:
        statement = statement.where(tuple_(*order) > tuple_(*after))
    return unit.sql.execute(statement).all()
