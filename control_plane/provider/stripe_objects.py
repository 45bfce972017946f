"""Stripe's documents as the port's values. Pure: takes what the SDK's `to_dict` gives, reads what is needed, ignores the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from control_plane.provider.values import (
    Customer,
    Invoice,
    InvoiceLine,
    Pause,
    PaymentMethod,
    PromotionCode,
    Subscription,
    SubscriptionItem,
)

Body = Mapping[str, Any]

TENANT: Final = "meterline_tenant"
"""The metadata key by which a customer names its tenant; the exporter's too."""
REFERENCE: Final = "meterline_reference"
"""The metadata key of our ids."""


def customer_of(body: Body) -> Customer:
    """A customer that is not deleted."""
    return Customer(
        id=body["id"],
        reference=(body.get("metadata") or {}).get(TENANT),
        name=body.get("name") or "",
        email=body.get("email"),
        currency=body.get("currency"),
        default_payment_method_id=_id(body["invoice_settings"].get("default_payment_method")),
        created=_at(body["created"]),
    )


def subscription_of(body: Body) -> Subscription:
    """A subscription with its items. Its period is its items', which share one."""
    items = body["items"]["data"]
    first = items[0]
    anchor = _at(body["billing_cycle_anchor"])
    config = body.get("billing_cycle_anchor_config")
    pause = body.get("pause_collection")
    return Subscription(
        id=body["id"],
        reference=(body.get("metadata") or {}).get(REFERENCE),
        customer_id=_required_id(body["customer"]),
        status=body["status"],
        currency=body["currency"],
        interval=first["price"]["recurring"]["interval"],
        interval_count=first["price"]["recurring"]["interval_count"],
        items=tuple(
            SubscriptionItem(
                id=item["id"],
                price_id=item["price"]["id"],
                quantity=None if item["price"]["recurring"]["usage_type"] == "metered" else item["quantity"],
                unit_amount=_decimal(item["price"].get("unit_amount_decimal")),
            )
            for item in items
        ),
        anchor=anchor,
        anchor_day=anchor.day if config is None else config["day_of_month"],
        period_start=_at(first["current_period_start"]),
        period_end=_at(first["current_period_end"]),
        cancel_at_period_end=body["cancel_at_period_end"],
        cancel_at=_maybe_at(body.get("cancel_at")),
        canceled_at=_maybe_at(body.get("canceled_at")),
        ended_at=_maybe_at(body.get("ended_at")),
        trial_start=_maybe_at(body.get("trial_start")),
        trial_end=_maybe_at(body.get("trial_end")),
        pause=None if pause is None else Pause(pause["behavior"], _maybe_at(pause.get("resumes_at"))),
        payment_method_id=_id(body.get("default_payment_method")),
        latest_invoice_id=_id(body.get("latest_invoice")),
        created=_at(body["created"]),
    )


def payment_method_of(body: Body) -> PaymentMethod:
    """A payment method. Of a card: its brand, expiry and last four digits, and nothing else."""
    card = body.get("card") or {}
    last4 = card.get("last4") or (body.get(body["type"]) or {}).get("last4")
    return PaymentMethod(
        id=body["id"],
        customer_id=_id(body.get("customer")),
        kind=body["type"],
        brand=card.get("brand"),
        last4=last4,
        exp_month=card.get("exp_month"),
        exp_year=card.get("exp_year"),
        created=_at(body["created"]),
    )


def invoice_of(body: Body, lines: list[Any] | None = None) -> Invoice:
    """An invoice; `lines`: all of them, where the document shows a first page only."""
    moments = body["status_transitions"]
    details = (body.get("parent") or {}).get("subscription_details") or {}
    return Invoice(
        id=body["id"],
        customer_id=_required_id(body["customer"]),
        subscription_id=_id(details.get("subscription")),
        status=body["status"],
        number=body.get("number"),
        currency=body["currency"],
        subtotal=body["subtotal"],
        discount=sum(one["amount"] for one in body.get("total_discount_amounts") or ()),
        tax=sum(one["amount"] for one in body.get("total_taxes") or ()),
        total=body["total"],
        amount_due=body["amount_due"],
        amount_paid=body["amount_paid"],
        amount_remaining=body["amount_remaining"],
        lines=tuple(_line(line) for line in (body["lines"]["data"] if lines is None else lines)),
        period_start=_at(body["period_start"]),
        period_end=_at(body["period_end"]),
        created=_at(body["created"]),
        due_at=_maybe_at(body.get("due_date")),
        finalized_at=_maybe_at(moments.get("finalized_at")),
        paid_at=_maybe_at(moments.get("paid_at")),
        hosted_url=body.get("hosted_invoice_url"),
        pdf_url=body.get("invoice_pdf"),
    )


def promotion_code_of(body: Body, coupon: Body) -> PromotionCode:
    """A code with the coupon that it gives."""
    percent = coupon.get("percent_off")
    return PromotionCode(
        id=body["id"],
        reference=(body.get("metadata") or {}).get(REFERENCE),
        code=body["code"],
        active=body["active"],
        percent_off=None if percent is None else Decimal(str(percent)),
        amount_off=coupon.get("amount_off"),
        currency=coupon.get("currency"),
        duration=coupon["duration"],
        duration_months=coupon.get("duration_in_months"),
        max_redemptions=body.get("max_redemptions"),
        redeemed=body["times_redeemed"],
        expires_at=_maybe_at(body.get("expires_at")),
        coupon_id=coupon["id"],
    )


def _line(line: Body) -> InvoiceLine:
    parent = line.get("parent") or {}
    details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
    pricing = (line.get("pricing") or {}).get("price_details") or {}
    quantity = line.get("quantity")
    return InvoiceLine(
        description=line.get("description") or "",
        amount=line["amount"],
        quantity=None if quantity is None else Decimal(quantity),
        price_id=_id(pricing.get("price")),
        proration=bool(details.get("proration")),
        period_start=_at(line["period"]["start"]),
        period_end=_at(line["period"]["end"]),
    )


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _maybe_at(seconds: int | None) -> datetime | None:
    return None if seconds is None else _at(seconds)


def _decimal(text: object) -> Decimal | None:
    return None if text is None else Decimal(str(text))


def _id(found: object) -> str | None:
    """The id of what is answered either as an id or, expanded, as the object."""
    if found is None or isinstance(found, str):
        return found
    return str(found["id"])  # type: ignore[index]


def _required_id(found: object) -> str:
    identifier = _id(found)
    assert identifier is not None, "the document names nobody"
    return identifier
