"""Giving a payment method to a tenant's customer: by itself, or as the first step of a subscription."""

from __future__ import annotations

from control_plane.customers import converging as customers_converging
from control_plane.payment_methods import repository
from control_plane.payment_methods.converging import converge
from control_plane.provider import observing
from control_plane.provider.errors import NotFound
from control_plane.provider.port import Provider
from control_plane.unit import Actor, Units


def attach(
    units: Units, provider: Provider, tenant_id: str, customer_id: str, token: str, *, key: str, default: bool, actor: Actor
) -> str:
    """The id of the method, which is the customer's from now on and, with `default`, what invoices are charged to.

    One that the tenant has already is taken as it is. The same key again does nothing new. Raises ProviderError; NotFound for
    a method of somebody else.
    """
    with units.begin(actor) as unit:
        known = repository.method(unit, provider.name, token)
    if known is not None and (known.tenant_id != tenant_id or not known.attached):
        raise NotFound("resource_missing", f"There is no payment method {token} to be used.")
    method_id = token
    if known is None:
        seen = observing.ticket(units, actor)
        found = provider.attach_payment_method(customer_id, token, f"{key}:attach")
        with units.begin(actor) as unit:
            converge(unit, provider.name, found, seen)
        method_id = found.id
    if default:
        seen = observing.ticket(units, actor)
        customer = provider.set_default_payment_method(customer_id, method_id, f"{key}:default")
        with units.begin(actor) as unit:
            customers_converging.converge(unit, provider.name, customer, seen)
    return method_id
