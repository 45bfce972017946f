"""What the provider says of a payment method, taken over."""

from __future__ import annotations

from control_plane.customers import repository as customers
from control_plane.payment_methods import repository
from control_plane.provider.values import PaymentMethod
from control_plane.unit import Unit


def converge(unit: Unit, provider: str, found: PaymentMethod, seen: int) -> bool:
    """Takes over what was read with the ticket `seen`; whether it was news. One of nobody is taken away, or left alone."""
    if found.customer_id is None:
        return forget(unit, provider, found.id)
    tenant_id = customers.tenant_of(unit, provider, found.customer_id)
    return tenant_id is not None and repository.put(unit, provider, tenant_id, found, seen)


def forget(unit: Unit, provider: str, method_id: str) -> bool:
    """The method was detached, which a provider never takes back; whether it was one of ours."""
    return repository.detach(unit, provider, method_id)
