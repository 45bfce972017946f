"""Customers at the payment provider: one for each tenant, made once whatever crashes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from control_plane.customers import converging, repository
from control_plane.provider import observing
from control_plane.provider.errors import ProviderError
from control_plane.provider.port import Provider
from control_plane.provider.refusing import refusal_of
from control_plane.provider.values import CustomerChange, CustomerOrder
from control_plane.refusals import Refusal, not_found
from control_plane.unit import Actor, Unit, Units
from runtime.crash import crash_point
from store import audit

KEY_LIVES = timedelta(hours=20)
"""A provider keeps a key for a day at least; what was begun longer ago is looked for before it is made."""
PAGE_MAX = 100


@dataclass(frozen=True)
class CustomerView:
    """A customer as it is shown."""

    tenant_id: str
    name: str
    email: str | None
    provider: str
    provider_customer_id: str | None
    currency: str | None
    default_payment_method_id: str | None
    created_at: datetime


def ensure(units: Units, provider: Provider, tenant_id: str, *, name: str, email: str | None, actor: Actor) -> str:
    """The provider's id of the tenant's customer, who is made where there is none.

    1. An intent with its key is committed; what is on record already is answered at once.
    2. The provider makes the customer under that key; an old intent is looked for first.
    3. The id is recorded.
    A crash between any two is taken up by the next call. Raises Refusal; not_found for a tenant that there is not.
    """
    # 1.
    with units.begin(actor) as unit:
        _tenant(unit, tenant_id)
        known = repository.provider_id(unit, provider.name, tenant_id)
        if known is not None:
            return known
        repository.intend(unit, tenant_id, provider.name, f"customer-{secrets.token_hex(12)}", name, email)
        intent = repository.customer(unit, tenant_id)
        assert intent is not None
        now = unit.sql.exec_driver_sql("SELECT now()").scalar_one()
    if intent.state == "deleted":
        raise Refusal(
            "precondition",
            "customer_deleted",
            f"The customer of {tenant_id} was deleted at the payment provider; an operator has to make another one there.",
        )
    # 2.
    order = CustomerOrder(tenant_id, intent.name, intent.email)
    seen = observing.ticket(units, actor)
    try:
        found = provider.find_customer(tenant_id) if now - intent.created_at > KEY_LIVES else None
        made = found or provider.create_customer(order, intent.making_key)
    except ProviderError as error:
        if error.kind in ("refused", "not_found"):
            # What was refused for good must not stand in the way of what is asked for next.
            with units.begin(actor) as unit:
                repository.give_up(unit, tenant_id, intent.making_key)
        raise refusal_of(error) from error
    crash_point("accounts.customer_made")
    # 3.
    with units.begin(actor) as unit:
        if repository.made(unit, tenant_id, provider.name, made.id):
            _audit(unit, "customer.created", tenant_id, None, {"provider_customer_id": made.id})
        converging.converge(unit, provider.name, made, seen)
        known = repository.provider_id(unit, provider.name, tenant_id)
    assert known is not None
    return known


def create(
    units: Units, provider: Provider, tenant_id: str, *, name: str | None, email: str | None, actor: Actor
) -> CustomerView:
    """Makes the tenant's customer; one that is there already is answered as it is."""
    with units.begin(actor) as unit:
        tenant = _tenant(unit, tenant_id)
    customer_id = ensure(units, provider, tenant_id, name=name or tenant.name or tenant_id, email=email, actor=actor)
    seen = observing.ticket(units, actor)
    try:
        found = provider.customer(customer_id)
    except ProviderError as error:
        raise refusal_of(error) from error
    with units.begin(actor) as unit:
        converging.converge(unit, provider.name, found, seen)
        return show(unit, tenant_id)


def change(
    units: Units, provider: Provider, tenant_id: str, *, name: str | None, email: str | None, key: str, actor: Actor
) -> CustomerView:
    """Changes what is not None, at the provider first."""
    with units.begin(actor) as unit:
        before = show(unit, tenant_id)
    if before.provider_customer_id is None:
        raise no_customer(tenant_id)
    seen = observing.ticket(units, actor)
    try:
        changed = provider.update_customer(before.provider_customer_id, CustomerChange(name, email), key)
    except ProviderError as error:
        raise refusal_of(error) from error
    with units.begin(actor) as unit:
        converging.converge(unit, provider.name, changed, seen)
        after = show(unit, tenant_id)
        _audit(unit, "customer.changed", tenant_id, _said(before), _said(after))
    return after


def show(unit: Unit, tenant_id: str) -> CustomerView:
    """The tenant's customer. Raises Refusal where there is none."""
    _tenant(unit, tenant_id)
    row = repository.customer(unit, tenant_id)
    if row is None or row.state == "deleted":
        raise no_customer(tenant_id)
    return _view(row)


def page(unit: Unit, after: str | None, limit: int) -> Sequence[CustomerView]:
    """Customers by tenant, after a tenant, at most PAGE_MAX."""
    return [_view(row) for row in repository.page(unit, after, min(limit, PAGE_MAX))]


def _tenant(unit: Unit, tenant_id: str) -> Row[Any]:
    found = repository.tenant(unit, tenant_id)
    if found is None:
        raise not_found("organization")
    return found


def no_customer(tenant_id: str) -> Refusal:
    """The tenant has nobody at the provider."""
    return Refusal("not_found", "no_customer", f"{tenant_id} has no customer at the payment provider yet; create one first.")


def _view(row: Row[Any]) -> CustomerView:
    return CustomerView(
        row.tenant_id, row.name, row.email, row.provider, row.provider_customer_id, row.currency,
        row.default_payment_method_id, row.created_at,
    )  # fmt: skip


def _said(view: CustomerView) -> dict[str, str | None]:
    return {"name": view.name, "email": view.email}


def _audit(unit: Unit, what: str, tenant_id: str, before: Any, after: Any) -> None:
    unit.audit(audit.Entry(what, tenant_id, before, after, tenant_id))
