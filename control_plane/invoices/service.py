"""Invoices of a tenant: listed, shown, asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row

from control_plane.customers import repository as customer_rows
from control_plane.customers import service as customers
from control_plane.invoices import repository
from control_plane.invoices.converging import converge
from control_plane.provider import observing
from control_plane.provider.errors import ProviderError
from control_plane.provider.port import Provider
from control_plane.provider.refusing import refusal_of
from control_plane.provider.values import InvoiceLine, InvoiceStatus
from control_plane.refusals import Refusal, not_found
from control_plane.subscriptions import repository as subscriptions
from control_plane.unit import Actor, Unit, Units
from store import audit


@dataclass(frozen=True)
class InvoiceView:
    """An invoice as it is shown. Amounts are whole minor units of the currency."""

    id: str
    organization_id: str
    status: str
    number: str | None
    currency: str
    subtotal: int
    discount: int
    tax: int
    total: int
    amount_due: int
    amount_paid: int
    amount_remaining: int
    lines: tuple[InvoiceLine, ...]
    period_start: datetime
    period_end: datetime
    due_at: datetime | None
    finalized_at: datetime | None
    paid_at: datetime | None
    hosted_url: str | None
    pdf_url: str | None
    created_at: datetime


def get(unit: Unit, invoice_id: str, reach: Callable[[str], None]) -> InvoiceView:
    """The invoice. Raises Refusal where it is not, and what `reach` raises for another tenant's."""
    row = repository.invoice(unit, invoice_id)
    if row is None:
        raise not_found("invoice")
    reach(row.tenant_id)
    return _view(row)


def page(
    unit: Unit, tenant_id: str, status: InvoiceStatus | None, after: tuple[datetime, str] | None, limit: int
) -> Sequence[InvoiceView]:
    """The tenant's invoices, newest first."""
    return [_view(row) for row in repository.page(unit, tenant_id, status, after, limit)]


def generate(units: Units, provider: Provider, tenant_id: str, *, description: str, key: str, actor: Actor) -> InvoiceView:
    """An invoice of what is pending (prorations, single items), final. Usage is billed when its period ends. Raises Refusal."""
    with units.begin(actor) as unit:
        if customer_rows.tenant(unit, tenant_id) is None:
            raise not_found("organization")
        customer_id = customer_rows.provider_id(unit, provider.name, tenant_id)
        subscribed = subscriptions.of_tenant(unit, tenant_id)
    if customer_id is None:
        raise customers.no_customer(tenant_id)
    if not subscribed:
        raise Refusal(
            "precondition", "never_billed", "This organization was never billed: nothing is pending. Subscribe it first."
        )
    seen = observing.ticket(units, actor)
    try:
        made = provider.generate_invoice(customer_id, subscribed[0].currency, description, key)
    except ProviderError as error:
        raise refusal_of(error) from error
    with units.begin(actor) as unit:
        converge(unit, provider.name, made, seen)
        said = {"total": made.total, "currency": made.currency}
        unit.audit(audit.Entry("invoice.generated", made.id, None, said, tenant_id))
        row = repository.invoice(unit, made.id)
        assert row is not None, "it was put on record just now"
        return _view(row)


def _view(row: Row[Any]) -> InvoiceView:
    return InvoiceView(
        id=row.invoice_id,
        organization_id=row.tenant_id,
        status=row.status,
        number=row.number,
        currency=row.currency,
        subtotal=row.subtotal,
        discount=row.discount,
        tax=row.tax,
        total=row.total,
        amount_due=row.amount_due,
        amount_paid=row.amount_paid,
        amount_remaining=row.amount_remaining,
        lines=msgspec.convert(row.lines, tuple[InvoiceLine, ...]),
        period_start=row.period_start,
        period_end=row.period_end,
        due_at=row.due_at,
        finalized_at=row.finalized_at,
        paid_at=row.paid_at,
        hosted_url=row.hosted_url,
        pdf_url=row.pdf_url,
        created_at=row.created_at,
    )
