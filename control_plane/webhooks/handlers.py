"""Who does what about a webhook. What a provider tells of is fetched again, and the state found there becomes ours: so it
does not matter in which order its webhooks come, or how often.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from control_plane.customers import converging as customers
from control_plane.invoices import converging as invoices
from control_plane.parts import Parts
from control_plane.payment_methods import converging as payment_methods
from control_plane.promo_codes import service as promo_codes
from control_plane.provider.errors import NotFound
from control_plane.provider.observing import ticket
from control_plane.provider.port import Provider
from control_plane.subscriptions import converging as subscriptions
from control_plane.unit import Actor, Units
from control_plane.webhooks import clerk
from store import reconcile_requests
from store.inbox import Taken

Refetch = Callable[[Units, Actor, Provider, str], None]
"""Fetches the object of this id, and makes what it finds ours. Raises ProviderError, Refusal.

The ticket is taken before the object is read: see `control_plane.provider.observing`.
"""


def _customer(units: Units, actor: Actor, provider: Provider, customer_id: str) -> None:
    seen = ticket(units, actor)
    try:
        found = provider.customer(customer_id)
    except NotFound:
        with units.begin(actor) as unit:
            customers.forget(unit, provider.name, customer_id)
        return
    with units.begin(actor) as unit:
        customers.converge(unit, provider.name, found, seen)


def _subscription(units: Units, actor: Actor, provider: Provider, subscription_id: str) -> None:
    seen = ticket(units, actor)
    # One that is over is still there; NotFound means that it is not this account's, and is told as a failure.
    found = provider.subscription(subscription_id)
    with units.begin(actor) as unit:
        subscriptions.converge(unit, provider.name, found, seen)


def _invoice(units: Units, actor: Actor, provider: Provider, invoice_id: str) -> None:
    seen = ticket(units, actor)
    found = provider.invoice(invoice_id)
    with units.begin(actor) as unit:
        invoices.converge(unit, provider.name, found, seen)


def _payment_method(units: Units, actor: Actor, provider: Provider, method_id: str) -> None:
    seen = ticket(units, actor)
    try:
        found = provider.payment_method(method_id)
    except NotFound:
        found = None
    with units.begin(actor) as unit:
        if found is None or found.customer_id is None:
            payment_methods.forget(unit, provider.name, method_id)
        else:
            payment_methods.converge(unit, provider.name, found, seen)


def _promotion_code(units: Units, actor: Actor, provider: Provider, code_id: str) -> None:
    seen = ticket(units, actor)
    try:
        found = provider.promotion_code(code_id)
    except NotFound:
        # Or what it gives is gone, which comes to the same.
        with units.begin(actor) as unit:
            promo_codes.forget(unit, provider.name, code_id, seen)
        return
    with units.begin(actor) as unit:
        promo_codes.converge(unit, provider.name, found, seen)


def _coupon(units: Units, actor: Actor, provider: Provider, coupon_id: str) -> None:
    """A code gives what its coupon gives, and nothing once that is gone: its codes are looked at."""
    with units.begin(actor) as unit:
        codes = promo_codes.provider_codes_of(unit, coupon_id)
    for code_id in codes:
        _promotion_code(units, actor, provider, code_id)


_STRIPE: Final[dict[Refetch, str]] = {
    _customer: "customer.created customer.updated customer.deleted",
    _subscription: "customer.subscription.created customer.subscription.updated customer.subscription.deleted"
    " customer.subscription.paused customer.subscription.resumed customer.subscription.trial_will_end",
    _invoice: "invoice.created invoice.finalized invoice.paid invoice.payment_succeeded invoice.payment_failed"
    " invoice.payment_action_required invoice.voided invoice.marked_uncollectible",
    _payment_method: "payment_method.attached payment_method.detached payment_method.updated"
    " payment_method.automatically_updated",
    _promotion_code: "promotion_code.created promotion_code.updated",
    _coupon: "coupon.created coupon.updated coupon.deleted",
}
_LAGO: Final[dict[Refetch, str]] = {
    _customer: "customer.created customer.updated",
    _subscription: "subscription.started subscription.updated subscription.terminated",
    _invoice: "invoice.created invoice.drafted invoice.voided invoice.payment_status_updated",
}

REFETCHED: Final[dict[tuple[str, str], Refetch]] = {
    (source, kind): refetch
    for source, table in (("stripe", _STRIPE), ("lago", _LAGO))
    for refetch, kinds in table.items()
    for kind in kinds.split()
}
"""By sender and kind."""

METER_TROUBLE: Final = frozenset({"v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"})
"""Stripe could not use meter events. These carry counts and samples only, so all they cause is a comparison."""


def handle(parts: Parts, rows: list[Taken]) -> bool:
    """Does what webhooks about one object ask for, all of one sender and kind of object; whether anything was to be done.

    May be repeated. Raises ProviderError, Refusal.
    """
    units = parts.units
    last = rows[-1]
    actor = Actor(f"webhook:{last.name.source}", last.name.message_id)
    if last.name.source == "clerk":
        with units.begin(actor) as unit:
            applied = [clerk.apply(unit, row) for row in rows]
        return any(applied)
    if last.kind in METER_TROUBLE:
        with units.begin(actor) as unit:
            reconcile_requests.ask(unit.pg, f"{last.kind} {last.name.message_id}")
        return True
    refetch = REFETCHED.get((last.name.source, last.kind))
    if refetch is None or not last.subject:
        return False
    provider = parts.provider
    if provider.name != last.name.source:
        # The other provider is what we bill with; what this one bills is not ours.
        return False
    refetch(units, actor, provider, last.subject)
    return True


def together(row: Taken) -> tuple[str, str, str]:
    """Rows with the same key are done about by one call."""
    refetch = REFETCHED.get((row.name.source, row.kind))
    what = row.kind if refetch is None else refetch.__name__
    return row.name.source, row.subject or row.name.message_id, what
