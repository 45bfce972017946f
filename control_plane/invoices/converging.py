"""What the provider says of an invoice, taken over."""

from __future__ import annotations

from control_plane.customers import repository as customers
from control_plane.invoices import repository
from control_plane.provider.values import Invoice
from control_plane.unit import Unit


def converge(unit: Unit, provider: str, found: Invoice, seen: int) -> bool:
    """Takes over what was read with the ticket `seen`; whether it was news. One of nobody here is left alone."""
    tenant_id = customers.tenant_of(unit, provider, found.customer_id)
    return tenant_id is not None and repository.put(unit, provider, tenant_id, found, seen)
