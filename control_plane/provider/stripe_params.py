"""The port's orders as parameters of Stripe's calls. Pure: dictionaries, as the SDK takes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from control_plane.provider.stripe_objects import REFERENCE, TENANT
from control_plane.provider.values import (
    CustomerOrder,
    ItemChange,
    PauseBehavior,
    PromotionCodeOrder,
    SubscriptionChange,
    SubscriptionOrder,
)


def customer_params(order: CustomerOrder) -> dict[str, Any]:
    """A new customer, who names its tenant."""
    return without_none(
        {"name": order.name or order.reference, "email": order.email or None, "metadata": {TENANT: order.reference}}
    )


def subscription_params(order: SubscriptionOrder) -> dict[str, Any]:
    """A new subscription. A first payment that fails leaves it incomplete."""
    config = None
    if order.anchor_day is not None:
        config = {"day_of_month": order.anchor_day, "hour": 0, "minute": 0, "second": 0}
    return without_none(
        {
            "customer": order.customer_id,
            "items": [without_none({"price": item.price_id, "quantity": item.quantity}) for item in order.items],
            "currency": order.currency,
            "metadata": {REFERENCE: order.reference},
            "payment_behavior": "allow_incomplete",
            "off_session": True,
            "billing_cycle_anchor_config": config,
            "trial_end": None if order.trial_end is None else seconds(order.trial_end),
            "default_payment_method": order.payment_method_id,
            "discounts": None if order.promotion_code_id is None else [{"promotion_code": order.promotion_code_id}],
        }
    )


def changed_params(change: SubscriptionChange) -> dict[str, Any]:
    """What is to be otherwise of a subscription."""
    trial_end = change.trial_end
    return without_none(
        {
            "proration_behavior": change.proration,
            "items": [_item(item) for item in change.items] or None,
            "default_payment_method": change.payment_method_id,
            "discounts": None if change.promotion_code_id is None else [{"promotion_code": change.promotion_code_id}],
            "trial_end": seconds(trial_end) if isinstance(trial_end, datetime) else trial_end,
        }
    )


def pause_params(behavior: PauseBehavior, resumes_at: datetime | None) -> dict[str, Any]:
    """A pause of collection."""
    return without_none({"behavior": behavior, "resumes_at": None if resumes_at is None else seconds(resumes_at)})


def coupon_params(order: PromotionCodeOrder) -> dict[str, Any]:
    """What a code takes off."""
    return without_none(
        {
            "percent_off": None if order.percent_off is None else str(order.percent_off),
            "amount_off": order.amount_off,
            "currency": order.currency,
            "duration": order.duration,
            "duration_in_months": order.duration_months,
            "metadata": {REFERENCE: order.reference},
        }
    )


def code_params(order: PromotionCodeOrder, coupon_id: str) -> dict[str, Any]:
    """The code that gives the coupon."""
    return without_none(
        {
            "promotion": {"type": "coupon", "coupon": coupon_id},
            "code": order.code,
            "max_redemptions": order.max_redemptions,
            "expires_at": None if order.expires_at is None else seconds(order.expires_at),
            "metadata": {REFERENCE: order.reference},
        }
    )


def seconds(at: datetime) -> int:
    """An instant as Stripe writes it."""
    return int(at.timestamp())


def without_none(params: dict[str, Any]) -> dict[str, Any]:
    """What was said; None is left out."""
    return {name: value for name, value in params.items() if value is not None}


def _item(item: ItemChange) -> dict[str, Any]:
    if item.deleted:
        return {"id": item.id, "deleted": True}
    return without_none({"id": item.id, "price": item.price_id, "quantity": item.quantity})
