"""Payment methods of a tenant: added, taken away, made the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from control_plane.customers import converging as customers_converging
from control_plane.customers import repository as customer_rows
from control_plane.customers import service as customers
from control_plane.payment_methods import attaching, repository
from control_plane.provider import observing
from control_plane.provider.errors import ProviderError
from control_plane.provider.port import Provider
from control_plane.provider.refusing import refusal_of
from control_plane.refusals import not_found
from control_plane.unit import Actor, Unit, Units
from store import audit

PAGE_MAX = 100


@dataclass(frozen=True)
class MethodView:
    """A payment method as it is shown."""

    id: str
    organization_id: str
    type: str
    last4: str | None
    is_default: bool
    created_at: datetime


def add(units: Units, provider: Provider, tenant_id: str, token: str, *, default: bool, key: str, actor: Actor) -> MethodView:
    """Gives the method that `token` names to the tenant; its customer is made where there is none."""
    with units.begin(actor) as unit:
        tenant = _tenant_name(unit, tenant_id)
    customer_id = customers.ensure(units, provider, tenant_id, name=tenant, email=None, actor=actor)
    try:
        method_id = attaching.attach(units, provider, tenant_id, customer_id, token, key=key, default=default, actor=actor)
    except ProviderError as error:
        raise refusal_of(error) from error
    with units.begin(actor) as unit:
        _audit(unit, "payment_method.added", tenant_id, method_id)
        return show(unit, provider.name, tenant_id, method_id)


def remove(units: Units, provider: Provider, tenant_id: str, method_id: str, *, key: str, actor: Actor) -> None:
    """Takes the method away, for good."""
    with units.begin(actor) as unit:
        show(unit, provider.name, tenant_id, method_id)
    try:
        provider.detach_payment_method(method_id, key)
    except ProviderError as error:
        raise refusal_of(error) from error
    with units.begin(actor) as unit:
        repository.detach(unit, provider.name, method_id)
        _audit(unit, "payment_method.removed", tenant_id, method_id)


def set_default(units: Units, provider: Provider, tenant_id: str, method_id: str, *, key: str, actor: Actor) -> MethodView:
    """What invoices are charged to from now on."""
    with units.begin(actor) as unit:
        show(unit, provider.name, tenant_id, method_id)
        customer_id = customer_rows.provider_id(unit, provider.name, tenant_id)
    if customer_id is None:
        raise customers.no_customer(tenant_id)
    seen = observing.ticket(units, actor)
    try:
        customer = provider.set_default_payment_method(customer_id, method_id, key)
    except ProviderError as error:
        raise refusal_of(error) from error
    with units.begin(actor) as unit:
        customers_converging.converge(unit, provider.name, customer, seen)
        _audit(unit, "payment_method.made_default", tenant_id, method_id)
        return show(unit, provider.name, tenant_id, method_id)


def show(unit: Unit, provider: str, tenant_id: str, method_id: str) -> MethodView:
    """The method. Raises Refusal for one that is not the tenant's, as if there were none."""
    row = repository.method(unit, provider, method_id)
    if row is None or row.tenant_id != tenant_id or not row.attached:
        raise not_found("payment method")
    customer = customer_rows.customer(unit, tenant_id)
    default = None if customer is None else customer.default_payment_method_id
    return MethodView(row.provider_method_id, tenant_id, row.kind, row.last4, row.provider_method_id == default, row.created_at)


def owner(unit: Unit, provider: str, method_id: str) -> str:
    """Whose it is. Raises Refusal where there is no such method."""
    row = repository.method(unit, provider, method_id)
    if row is None or not row.attached:
        raise not_found("payment method")
    return str(row.tenant_id)


def page(unit: Unit, tenant_id: str, after: tuple[datetime, str] | None, limit: int) -> Sequence[MethodView]:
    """The tenant's methods, oldest first."""
    customer = customer_rows.customer(unit, tenant_id)
    default = None if customer is None else customer.default_payment_method_id
    return [
        MethodView(row.provider_method_id, tenant_id, row.kind, row.last4, row.provider_method_id == default, row.created_at)
        for row in repository.page(unit, tenant_id, after, min(limit, PAGE_MAX + 1))
    ]


def _tenant_name(unit: Unit, tenant_id: str) -> str:
    tenant = customer_rows.tenant(unit, tenant_id)
    if tenant is None:
        raise not_found("organization")
    return str(tenant.name or tenant_id)


def _audit(unit: Unit, what: str, tenant_id: str, method_id: str) -> None:
    unit.audit(audit.Entry(what, tenant_id, None, {"id": method_id}, tenant_id))
