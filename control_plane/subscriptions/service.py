"""What may be done with a subscription. The provider is asked first, the rows here follow; see `running.py`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Row

from control_plane.customers import repository as customers
from control_plane.promo_codes import service as promo_codes
from control_plane.promo_codes.service import Redeemed
from control_plane.provider.errors import ProviderError
from control_plane.provider.port import Provider
from control_plane.provider.refusing import refusal_of
from control_plane.provider.values import OVER, ItemOrder, SubscriptionChange
from control_plane.refusals import Refusal, not_found
from control_plane.subscriptions import operations, prices, repository
from control_plane.subscriptions.operations import Kind, Operation, Wanted
from control_plane.subscriptions.running import advance
from control_plane.subscriptions.states import is_alive
from control_plane.subscriptions.views import CreateOrder, PauseOrder, Preview, SubscriptionView, UpdateOrder, view_of
from control_plane.subscriptions.wanted import item_changes, parts_of
from control_plane.unit import Actor, Unit, Units
from runtime.crash import crash_point

Reach = Callable[[str], None]
"""Raises for a tenant out of the asking principal's reach."""


def show(unit: Unit, tenant_id: str) -> SubscriptionView:
    """The tenant's subscription: the living one, else the last one. Raises Refusal where there is none."""
    rows = repository.of_tenant(unit, tenant_id)
    if not rows:
        raise Refusal("not_found", "no_subscription", "This organization has no subscription; create one.")
    return view_of(rows[0])


def get(unit: Unit, subscription_id: str, reach: Reach) -> SubscriptionView:
    """The subscription by its id. Raises Refusal where it is not, and what `reach` raises."""
    return view_of(_row(unit, subscription_id, reach))


def create(units: Units, provider: Provider, tenant_id: str, order: CreateOrder, actor: Actor) -> SubscriptionView:
    """Makes the subscription. Raises Refusal; with `unavailable` it is not known yet, and is brought to its end all the same."""
    account = _account(provider)
    with units.begin(actor) as unit:
        tenant = _tenant(unit, tenant_id)
        for row in repository.of_tenant(unit, tenant_id):
            if row.status not in OVER and row.origin == "here":
                raise Refusal(
                    "conflict",
                    "already_subscribed",
                    f"This organization has the subscription {row.subscription_id} already; change that one, or cancel it first.",
                    {"subscription_id": row.subscription_id},
                )
        _plan(unit, order.plan_id)
        customer = customers.customer(unit, tenant_id)
        currency = prices.currency_of(unit, order.plan_id, order.currency, None if customer is None else customer.currency)
        found = prices.plan_prices(unit, provider, account, order.plan_id, tenant_id, order.billing_cycle, currency)
        trial_end = None
        if order.trial_days is not None:
            trial_end = _now(unit) + timedelta(days=order.trial_days)
        subscription_id = repository.new_id()
        redeemed = _redeemed(unit, tenant_id, order.promo_code, order.plan_id, currency, subscription_id)
        wanted = Wanted(
            parts=parts_of(order.billing_cycle, found.base, order.quantity, found.overage, order.items),
            currency=currency,
            anchor_day=_anchor_day(provider, tenant),
            trial_end=trial_end,
            payment_method_id=order.payment_method_id,
            promotion_code_id=None if redeemed is None else redeemed.provider_code_id,
            redemption_id=None if redeemed is None else redeemed.redemption_id,
        )
        operation = operations.begin(unit, tenant_id, subscription_id, "create", wanted)
    crash_point("subscriptions.intended")
    return _through(units, provider, operation, actor)


def update(
    units: Units, provider: Provider, subscription_id: str, order: UpdateOrder, reach: Reach, actor: Actor
) -> SubscriptionView:
    """Changes plan, cycle, seats, items, trial, payment method. Raises Refusal."""
    account = _account(provider)
    with units.begin(actor) as unit:
        row = _row(unit, subscription_id, reach)
        wanted = _wanted(unit, provider, account, _changeable(row), order)
        plan_id = order.plan_id or row.plan_id
        redeemed = _redeemed(unit, row.tenant_id, order.promo_code, plan_id, row.currency, subscription_id)
        if redeemed is not None:
            wanted = msgspec.structs.replace(
                wanted, promotion_code_id=redeemed.provider_code_id, redemption_id=redeemed.redemption_id
            )
        operation = operations.begin(unit, row.tenant_id, subscription_id, "update", wanted)
    crash_point("subscriptions.intended")
    return _through(units, provider, operation, actor)


def preview(units: Units, provider: Provider, subscription_id: str, order: UpdateOrder, reach: Reach, actor: Actor) -> Preview:
    """What `update` would cost. Nothing is written, here or there. Raises Refusal."""
    account = _account(provider)
    with units.begin(actor) as unit:
        row = _row(unit, subscription_id, reach)
        wanted = _wanted(unit, provider, account, _changeable(row), order)
        known = [part for part in repository.parts(unit, subscription_id) if is_alive(part)]
    if row.billing_cycle != (order.billing_cycle or row.billing_cycle):
        raise Refusal(
            "unprocessable",
            "cycle_not_previewed",
            "The provider shows no single invoice for another billing cycle: the new cycle's price is charged at once, what is"
            " unused of the old one comes back.",
        )
    invoices = []
    try:
        for current in known:
            part = next((part for part in wanted.parts if part.interval == current.interval), None)
            if part is None or not part.base:
                continue
            change = SubscriptionChange(items=item_changes(current, part.items), proration=wanted.proration)
            if change.items:
                invoices.append(provider.preview_update(current.id, change))
            else:
                invoices.append(provider.upcoming_invoice(current.id))
    except ProviderError as error:
        raise refusal_of(error) from error
    return Preview(
        currency=row.currency,
        total=sum(invoice.total for invoice in invoices),
        proration=sum(line.amount for invoice in invoices for line in invoice.lines if line.proration),
        invoices=tuple(invoices),
    )


def cancel(
    units: Units,
    provider: Provider,
    subscription_id: str,
    reach: Reach,
    actor: Actor,
    *,
    at_period_end: bool = True,
    prorate: bool = False,
) -> SubscriptionView:
    """Ends it with the running period, or now; `prorate`: then what is unused comes back."""
    wanted = Wanted(at_period_end=at_period_end, prorate=prorate)
    return _simply(units, provider, subscription_id, "cancel", wanted, reach, actor)


def reactivate(units: Units, provider: Provider, subscription_id: str, reach: Reach, actor: Actor) -> SubscriptionView:
    """Takes a cancellation at the period's end back."""
    return _simply(units, provider, subscription_id, "reactivate", Wanted(), reach, actor)


def pause(
    units: Units, provider: Provider, subscription_id: str, order: PauseOrder, reach: Reach, actor: Actor
) -> SubscriptionView:
    """Collection is paused; the subscription stays as it is otherwise."""
    wanted = Wanted(pause_behavior=order.behavior, resumes_at=order.resumes_at)
    return _simply(units, provider, subscription_id, "pause", wanted, reach, actor)


def resume(units: Units, provider: Provider, subscription_id: str, reach: Reach, actor: Actor) -> SubscriptionView:
    """Ends a pause."""
    return _simply(units, provider, subscription_id, "resume", Wanted(), reach, actor)


def _simply(
    units: Units, provider: Provider, subscription_id: str, kind: Kind, wanted: Wanted, reach: Reach, actor: Actor
) -> SubscriptionView:
    with units.begin(actor) as unit:
        row = _changeable(_row(unit, subscription_id, reach))
        operation = operations.begin(unit, row.tenant_id, subscription_id, kind, wanted)
    crash_point("subscriptions.intended")
    return _through(units, provider, operation, actor)


def _through(units: Units, provider: Provider, operation: Operation, actor: Actor) -> SubscriptionView:
    advance(units, provider, operation)
    with units.begin(actor) as unit:
        row = repository.subscription(unit, operation.subscription_id)
        assert row is not None, "an operation that is done has its subscription"
        return view_of(row)


def _anchor_day(provider: Provider, tenant: Row[Any]) -> int | None:
    """The day on which periods are to start; None where the provider has days of its own."""
    return int(tenant.anchor_day) if "anchor" in provider.capabilities else None


def _redeemed(
    unit: Unit, tenant_id: str, code: str | None, plan_id: str | None, currency: str, subscription_id: str
) -> Redeemed | None:
    """The use of the code that is taken with this operation; None without a code, or where it is the subscription's already."""
    if code is None:
        return None
    redeemed = promo_codes.redeem(unit, tenant_id, code, plan_id=plan_id, currency=currency, subscription_id=subscription_id)
    return redeemed if redeemed.new else None


def _wanted(unit: Unit, provider: Provider, account: str, row: Row[Any], order: UpdateOrder) -> Wanted:
    plan_id = order.plan_id or row.plan_id
    cycle = order.billing_cycle or row.billing_cycle
    if plan_id is None or cycle is None:
        raise Refusal(
            "precondition", "imported", "This subscription was made elsewhere and is on no plan of the catalog; change it there."
        )
    _plan(unit, plan_id)
    tenant = _tenant(unit, row.tenant_id)
    addons = msgspec.convert(row.addons, tuple[ItemOrder, ...]) if order.items is None else order.items
    found = prices.plan_prices(unit, provider, account, plan_id, row.tenant_id, cycle, row.currency)
    if order.trial_end is not None and order.trial_end <= _now(unit):
        raise Refusal("invalid", "trial_over", "trial_end lies in the past; say a time ahead, or end_trial.")
    return Wanted(
        parts=parts_of(cycle, found.base, row.quantity if order.quantity is None else order.quantity, found.overage, addons),
        currency=row.currency,
        anchor_day=_anchor_day(provider, tenant),
        trial_end=order.trial_end,
        end_trial=order.end_trial,
        payment_method_id=order.payment_method_id,
        proration=order.proration,
    )


def _row(unit: Unit, subscription_id: str, reach: Reach) -> Row[Any]:
    row = repository.subscription(unit, subscription_id)
    if row is None:
        raise not_found("subscription")
    reach(row.tenant_id)
    return row


def _changeable(row: Row[Any]) -> Row[Any]:
    if row.status in OVER:
        raise Refusal("conflict", "subscription_over", f"The subscription is {row.status}; create a new one.")
    return row


def _tenant(unit: Unit, tenant_id: str) -> Row[Any]:
    tenant = customers.tenant(unit, tenant_id)
    if tenant is None:
        raise not_found("organization")
    return tenant


def _plan(unit: Unit, plan_id: str) -> None:
    if not prices.is_plan(unit, plan_id):
        raise Refusal("invalid", "unknown_plan", "There is no such plan; GET /api/plans lists them.")


def _account(provider: Provider) -> str:
    try:
        return provider.account()
    except ProviderError as error:
        raise refusal_of(error) from error


def _now(unit: Unit) -> datetime:
    found: datetime = unit.sql.exec_driver_sql("SELECT now()").scalar_one()
    return found
