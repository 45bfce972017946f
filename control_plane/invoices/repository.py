"""The table of invoices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, DateTime, Row, Table, Text, func, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB, insert

from control_plane.metadata import METADATA
from control_plane.provider.values import Invoice, InvoiceStatus
from control_plane.unit import Unit

INVOICES = Table(
    "invoices",
    METADATA,
    Column("provider", Text, primary_key=True),
    Column("invoice_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("provider_subscription_id", Text),
    Column("status", Text, nullable=False),
    Column("number", Text),
    Column("currency", Text, nullable=False),
    Column("subtotal", BigInteger, nullable=False),
    Column("discount", BigInteger, nullable=False),
    Column("tax", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("amount_due", BigInteger, nullable=False),
    Column("amount_paid", BigInteger, nullable=False),
    Column("amount_remaining", BigInteger, nullable=False),
    Column("lines", JSONB, nullable=False),
    Column("period_start", DateTime(timezone=True), nullable=False),
    Column("period_end", DateTime(timezone=True), nullable=False),
    Column("due_at", DateTime(timezone=True)),
    Column("finalized_at", DateTime(timezone=True)),
    Column("paid_at", DateTime(timezone=True)),
    Column("hosted_url", Text),
    Column("pdf_url", Text),
    Column("seen", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)


def invoice(unit: Unit, invoice_id: str) -> Row[Any] | None:
    """The invoice's row."""
    return unit.sql.execute(select(INVOICES).where(INVOICES.c.invoice_id == invoice_id)).one_or_none()


def put(unit: Unit, provider: str, tenant_id: str, found: Invoice, seen: int) -> bool:
    """What was seen, unless a later observation stands; whether it was taken."""
    values = {
        "provider_subscription_id": found.subscription_id,
        "status": found.status,
        "number": found.number,
        "currency": found.currency,
        "subtotal": found.subtotal,
        "discount": found.discount,
        "tax": found.tax,
        "total": found.total,
        "amount_due": found.amount_due,
        "amount_paid": found.amount_paid,
        "amount_remaining": found.amount_remaining,
        "lines": msgspec.to_builtins(found.lines),
        "period_start": found.period_start,
        "period_end": found.period_end,
        "due_at": found.due_at,
        "finalized_at": found.finalized_at,
        "paid_at": found.paid_at,
        "hosted_url": found.hosted_url,
        "pdf_url": found.pdf_url,
        "seen": seen,
        "changed_at": func.now(),
    }
    statement = insert(INVOICES).values(
        provider=provider, invoice_id=found.id, tenant_id=tenant_id, created_at=found.created, **values
    )
    result = unit.sql.execute(
        statement.on_conflict_do_update(
            index_elements=["provider", "invoice_id"],
            set_=values,
            where=(INVOICES.c.seen < seen) & (INVOICES.c.tenant_id == tenant_id),
        ).returning(INVOICES.c.invoice_id)
    )
    return result.first() is not None


def page(
    unit: Unit, tenant_id: str, status: InvoiceStatus | None, after: tuple[datetime, str] | None, limit: int
) -> Sequence[Row[Any]]:
    """The tenant's invoices, newest first, after (created, id)."""
    order = (INVOICES.c.created_at, INVOICES.c.invoice_id)
    statement = select(INVOICES).where(INVOICES.c.tenant_id == tenant_id).order_by(*(key.desc() for key in order)).limit(limit)
    if status is not None:
        statement = statement.where(INVOICES.c.status == status)
    if after is not None:
        statement = statement.where(tuple_(*order) < tuple_(*after))
    return unit.sql.execute(statement).all()
