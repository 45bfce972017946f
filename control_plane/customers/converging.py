"""What the provider says of a customer, taken over."""

from __future__ import annotations

from control_plane.customers import repository
from control_plane.provider.values import Customer
from control_plane.unit import Unit


def converge(unit: Unit, provider: str, found: Customer, seen: int) -> bool:
    """Takes over what was read with the ticket `seen`; whether anything changed. A customer of nobody here is left alone."""
    tenant_id = repository.tenant_of(unit, provider, found.id) or found.reference
    if tenant_id is None:
        return False
    tenant = repository.tenant(unit, tenant_id, lock=True)
    if tenant is None:
        return False
    row = repository.customer(unit, tenant_id)
    known = None if row is None else row.provider_customer_id
    if known is None and provider == "stripe":
        known = tenant.stripe_customer_id
    if known not in (None, found.id):
        # Somebody made a second customer with this tenant in its metadata; ours stays ours.
        return False
    if row is not None and row.state == "making":
        repository.made(unit, tenant_id, provider, found.id)
    return repository.put(unit, tenant_id, provider, found, seen)


def forget(unit: Unit, provider: str, customer_id: str) -> bool:
    """The provider deleted the customer; whether it was one of ours."""
    return repository.mark_deleted(unit, provider, customer_id)
