"""What Lago's documents say, in the words of the port. Lago's `_cents` are minor units of whatever currency."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from control_plane.provider.errors import Ambiguous
from control_plane.provider.values import (
    Customer,
    Interval,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    Subscription,
    SubscriptionItem,
    SubscriptionStatus,
)

Document = dict[str, Any]

_STATUS: Final[dict[str, SubscriptionStatus]] = {
    "active": "active",
    "pending": "incomplete",  # it begins later: nothing may be used yet
    "incomplete": "incomplete",
    "terminated": "canceled",
    "canceled": "canceled",
}
_INTERVALS: Final[dict[str, tuple[Interval, int]]] = {
    "weekly": ("week", 1),
    "monthly": ("month", 1),
    "quarterly": ("month", 3),
    "semiannual": ("month", 6),
    "yearly": ("year", 1),
}


def customer_of(document: Document) -> Customer:
    """A customer. Lago knows it by our reference, which is therefore its id."""
    reference = _text(document, "external_id")
    currency = document.get("currency")
    return Customer(
        reference,
        reference,
        document.get("name") or "",
        document.get("email") or None,
        currency.lower() if isinstance(currency, str) else None,
        None,
        _instant(document, "created_at"),
    )


def subscription_of(document: Document, plan: Document) -> Subscription:
    """A subscription and its plan. Lago knows it by our reference, which is therefore its id."""
    status = _STATUS.get(_text(document, "status"))
    interval = _INTERVALS.get(_text(plan, "interval"))
    if status is None or interval is None:
        raise Ambiguous("bad_answer", "Lago's subscription has a state or an interval that is not documented.", ended=True)
    reference, created = _text(document, "external_id"), _instant(document, "created_at")
    started = _at(document, "started_at") or _at(document, "subscription_at") or created
    anchor = _at(document, "subscription_at") or created
    ending, terminated = _at(document, "ending_at"), _at(document, "terminated_at")
    amount = plan.get("amount_cents")
    return Subscription(
        id=reference,
        reference=reference,
        customer_id=_text(document, "external_customer_id"),
        status=status,
        currency=_text(plan, "amount_currency").lower(),
        interval=interval[0],
        interval_count=interval[1],
        items=(
            SubscriptionItem(reference, _text(document, "plan_code"), 1, Decimal(amount) if isinstance(amount, int) else None),
        ),
        anchor=anchor,
        anchor_day=1 if document.get("billing_time") == "calendar" else anchor.day,
        period_start=_at(document, "current_billing_period_started_at") or started,
        period_end=_end(_at(document, "current_billing_period_ending_at") or terminated or started),
        cancel_at_period_end=ending is not None and status == "active",
        cancel_at=None if ending is None else _end(ending),
        canceled_at=_at(document, "canceled_at"),
        ended_at=terminated if status == "canceled" else None,
        trial_start=None,
        trial_end=None,
        pause=None,
        payment_method_id=None,
        latest_invoice_id=None,
        created=created,
    )


def invoice_of(document: Document) -> Invoice:
    """An invoice with its fees as lines."""
    total = _amount(document, "total_amount_cents")
    paid = document.get("payment_status") == "succeeded"
    status: InvoiceStatus
    match _text(document, "status"):
        case "draft":
            status = "draft"
        case "voided":
            status = "void"
        case _:
            status = "paid" if paid else "open"
    created = _at(document, "created_at") or _day(document, "issuing_date")
    fees = [fee for fee in document.get("fees") or [] if isinstance(fee, dict)]
    subscriptions = [one for one in document.get("subscriptions") or [] if isinstance(one, dict)]
    lines = tuple(_line(fee, created) for fee in fees)
    customer = document.get("customer")
    return Invoice(
        id=_text(document, "lago_id"),
        customer_id=_text(customer, "external_id") if isinstance(customer, dict) else "",
        subscription_id=_text(subscriptions[0], "external_id") if subscriptions else None,
        status=status,
        number=document.get("number") or None,
        currency=_text(document, "currency").lower(),
        subtotal=_amount(document, "fees_amount_cents"),
        discount=_amount(document, "coupons_amount_cents"),
        tax=_amount(document, "taxes_amount_cents"),
        total=total,
        amount_due=total,
        amount_paid=total if status == "paid" else 0,
        amount_remaining=0 if status in ("paid", "void") else total,
        lines=lines,
        period_start=min((line.period_start for line in lines), default=created),
        period_end=max((line.period_end for line in lines), default=created),
        created=created,
        due_at=_day(document, "payment_due_date") if document.get("payment_due_date") else None,
        finalized_at=None if status == "draft" else (_at(document, "finalized_at") or _day(document, "issuing_date")),
        paid_at=(_at(document, "updated_at") or created) if status == "paid" else None,
        hosted_url=None,
        pdf_url=document.get("file_url") or None,
    )


def _line(fee: Document, created: datetime) -> InvoiceLine:
    item = fee.get("item")
    item = item if isinstance(item, dict) else {}
    units = fee.get("units")
    try:
        quantity = None if units is None else Decimal(str(units))
    except InvalidOperation:
        quantity = None
    return InvoiceLine(
        description=str(fee.get("invoice_display_name") or item.get("name") or item.get("code") or ""),
        amount=_amount(fee, "amount_cents"),
        quantity=quantity,
        price_id=item.get("code") or None,
        proration=False,
        period_start=_at(fee, "from_date") or created,
        period_end=_end(_at(fee, "to_date") or created),
    )


def _text(document: Document, name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise Ambiguous("bad_answer", f"Lago's answer has no {name}.", ended=True)
    return value


def _amount(document: Document, name: str) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Ambiguous("bad_answer", f"Lago's {name} is no whole number.", ended=True)
    return value


def _at(document: Document, name: str) -> datetime | None:
    value = document.get(name)
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Ambiguous("bad_answer", f"Lago's {name} is no instant.", ended=True) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _instant(document: Document, name: str) -> datetime:
    found = _at(document, name)
    if found is None:
        raise Ambiguous("bad_answer", f"Lago's answer has no {name}.", ended=True)
    return found


def _day(document: Document, name: str) -> datetime:
    return datetime.combine(_instant(document, name).date(), time(), UTC)


def _end(last: datetime) -> datetime:
    """Lago names the last second of a period; here a period ends where the next one begins."""
    return last + timedelta(seconds=1) if (last.minute, last.second) == (59, 59) else last
