"""PaymentService: subscriptions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from control_plane.grpc.calls import RpcCall
from control_plane.grpc.fields import Fields, timestamp
from control_plane.grpc.generated import payment_pb2 as pb
from control_plane.grpc.methods import SERVICES
from control_plane.grpc.payments import METHODS
from control_plane.provider.values import ITEMS_MAX, ItemOrder, Proration
from control_plane.subscriptions import service
from control_plane.subscriptions.views import CreateOrder, SubscriptionView, UpdateOrder

CHANGEABLE: Final = frozenset({"plan_id", "billing_cycle", "quantity", "items", "payment_method_id", "trial_end_time"})
QUANTITY_MAX: Final = 1_000_000
TRIAL_DAYS_MAX: Final = 730
PROMO_CHARACTERS_MAX: Final = 100

Cycle = Literal["monthly", "yearly"]
_CYCLES: Final[dict[int, Cycle]] = {pb.BILLING_CYCLE_MONTHLY: "monthly", pb.BILLING_CYCLE_YEARLY: "yearly"}
_PRORATIONS: Final[dict[int, Proration]] = {
    pb.PRORATION_UNSPECIFIED: "create_prorations",
    pb.PRORATION_CREATE: "create_prorations",
    pb.PRORATION_ALWAYS_INVOICE: "always_invoice",
    pb.PRORATION_NONE: "none",
}


@METHODS.rpc(SERVICES)
def create_subscription(call: RpcCall, request: pb.CreateSubscriptionRequest) -> pb.CreateSubscriptionResponse:
    fields = Fields(request)
    customer_id = fields.identifier("customer_id")
    cycle = _CYCLES.get(request.billing_cycle or pb.BILLING_CYCLE_MONTHLY)
    if cycle is None:
        fields.wrong("billing_cycle", "want BILLING_CYCLE_MONTHLY or BILLING_CYCLE_YEARLY")
    order = CreateOrder(
        plan_id=fields.identifier("plan_id"),
        billing_cycle=cycle or "monthly",
        currency=fields.currency("currency"),
        quantity=fields.whole("quantity", 1, QUANTITY_MAX, 1),
        items=_items(fields, request.items),
        payment_method_id=fields.identifier("payment_method_id", required=False) or None,
        trial_days=fields.whole("trial_days", 0, TRIAL_DAYS_MAX, 0) or None,
        promo_code=fields.text("promo_code", PROMO_CHARACTERS_MAX) or None,
    )
    fields.check()

    def act() -> pb.CreateSubscriptionResponse:
        made = service.create(call.parts.units, call.parts.provider, customer_id, order, call.actor)
        return pb.CreateSubscriptionResponse(subscription=_subscription(made))

    return call.once_as(pb.CreateSubscriptionResponse, act)


@METHODS.rpc(SERVICES)
def update_subscription(call: RpcCall, request: pb.UpdateSubscriptionRequest) -> pb.UpdateSubscriptionResponse:
    fields, inner = Fields(request), Fields(request.subscription)
    changed = fields.mask("update_mask", CHANGEABLE)
    if request.proration not in _PRORATIONS:
        fields.wrong("proration", "want one of the values of Proration")
    subscription_id = inner.identifier("subscription_id")
    cycle = _CYCLES.get(request.subscription.billing_cycle)
    if "billing_cycle" in changed and cycle is None:
        inner.wrong("billing_cycle", "want BILLING_CYCLE_MONTHLY or BILLING_CYCLE_YEARLY")
    plan_id = inner.identifier("plan_id", required="plan_id" in changed)
    quantity = inner.whole("quantity", 1, QUANTITY_MAX, 1)
    items = _items(inner, request.subscription.items)
    method_id = inner.identifier("payment_method_id", required="payment_method_id" in changed)
    trial_end = inner.instant("trial_end_time")
    fields.check()
    inner.check()
    order = UpdateOrder(
        plan_id=plan_id if "plan_id" in changed else None,
        billing_cycle=cycle if "billing_cycle" in changed else None,
        quantity=quantity if "quantity" in changed else None,
        items=items if "items" in changed else None,
        payment_method_id=method_id if "payment_method_id" in changed else None,
        trial_end=trial_end if "trial_end_time" in changed else None,
        end_trial="trial_end_time" in changed and trial_end is None,
        proration=_PRORATIONS[request.proration],
    )
    if request.preview_only:
        seen = service.preview(call.parts.units, call.parts.provider, subscription_id, order, call.require_tenant, call.actor)
        preview = pb.SubscriptionPreview(currency=seen.currency, total=seen.total, proration=seen.proration)
        return pb.UpdateSubscriptionResponse(preview=preview)
    made = service.update(call.parts.units, call.parts.provider, subscription_id, order, call.require_tenant, call.actor)
    return pb.UpdateSubscriptionResponse(subscription=_subscription(made))


@METHODS.rpc(SERVICES)
def cancel_subscription(call: RpcCall, request: pb.CancelSubscriptionRequest) -> pb.CancelSubscriptionResponse:
    fields = Fields(request)
    subscription_id = fields.identifier("subscription_id")
    if request.at_period_end and request.prorate:
        fields.wrong("prorate", "goes with a cancellation now; nothing is unused at the period's end")
    fields.check()
    made = service.cancel(
        call.parts.units,
        call.parts.provider,
        subscription_id,
        call.require_tenant,
        call.actor,
        at_period_end=request.at_period_end,
        prorate=request.prorate,
    )
    return pb.CancelSubscriptionResponse(subscription=_subscription(made))


@METHODS.rpc(SERVICES)
def reactivate_subscription(call: RpcCall, request: pb.ReactivateSubscriptionRequest) -> pb.ReactivateSubscriptionResponse:
    fields = Fields(request)
    subscription_id = fields.identifier("subscription_id")
    fields.check()
    made = service.reactivate(call.parts.units, call.parts.provider, subscription_id, call.require_tenant, call.actor)
    return pb.ReactivateSubscriptionResponse(subscription=_subscription(made))


def _items(fields: Fields, items: Iterable[pb.SubscriptionItem]) -> tuple[ItemOrder, ...]:
    found = tuple(ItemOrder(item.price_id, item.quantity or None) for item in items)
    if len(found) > ITEMS_MAX or any(not item.price_id or not 0 <= (item.quantity or 0) <= QUANTITY_MAX for item in found):
        fields.wrong("items", f"want at most {ITEMS_MAX}, each with a price_id and a quantity of 0 to {QUANTITY_MAX}")
    return found


def _subscription(view: SubscriptionView) -> pb.Subscription:
    return pb.Subscription(
        subscription_id=view.id,
        customer_id=view.organization_id,
        plan_id=view.plan_id or "",
        billing_cycle=f"BILLING_CYCLE_{(view.billing_cycle or 'unspecified').upper()}",
        status=f"SUBSCRIPTION_STATUS_{view.status.upper()}",
        currency=view.currency,
        quantity=view.quantity,
        current_period_start=timestamp(view.current_period_start),
        current_period_end=timestamp(view.current_period_end),
        cancel_at_period_end=view.cancel_at_period_end,
        canceled_time=timestamp(view.canceled_at),
        ended_time=timestamp(view.ended_at),
        trial_end_time=timestamp(view.trial_end),
        create_time=timestamp(view.created_at),
        payment_method_id=view.payment_method_id or "",
        items=[pb.SubscriptionItem(price_id=item.price_id, quantity=item.quantity or 0) for item in view.items],
        update_time=timestamp(view.updated_at),
    )
