"""Lago as a payment provider, over its REST interface.

What Lago has no word for is refused (`unsupported_by_provider`), never imitated: payment methods are its own payment
provider's, a subscription has one plan and no quantities, and an invoice is made when a period ends. Its objects go by ids of
ours (`external_id`), so the same call twice makes one object, and `key` is not needed for that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from control_plane.provider.errors import NotFound, Refused, unsupported
from control_plane.provider.lago_api import LagoApi, Query, segment
from control_plane.provider.lago_objects import Document, customer_of, invoice_of, subscription_of
from control_plane.provider.port import Capability
from control_plane.provider.values import (
    Customer,
    CustomerChange,
    CustomerOrder,
    Invoice,
    InvoiceStatus,
    Page,
    PauseBehavior,
    PaymentMethod,
    PromotionCode,
    PromotionCodeOrder,
    Subscription,
    SubscriptionChange,
    SubscriptionOrder,
    UsageEvent,
)

_STATES: Final = ("active", "pending", "terminated", "canceled")
_METHODS: Final = ("payment methods of its own", "set them up where Lago collects payments.")


class LagoProvider:
    """See Provider."""

    name = "lago"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, url: str, key: str, *, timeout_s: float) -> None:
        self._api = LagoApi(url, key, timeout_s)
        self._local = urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")

    @property
    def livemode(self) -> bool:
        """Lago has no test mode: money moves, unless it is one on this machine."""
        return not self._local

    def account(self) -> str:
        """See Provider: the default billing entity's id, as Lago names no account."""
        entities = list(self._api.walk("billing_entities", "billing_entities"))
        default = [one for one in entities if one.get("is_default")] or entities
        if not default:
            raise Refused("no_billing_entity", "Lago has no billing entity; make one there.")
        return str(default[0]["lago_id"])

    # --- customers

    def create_customer(self, order: CustomerOrder, key: str) -> Customer:
        """See Provider. Lago changes the one that has this reference already."""
        body = {"external_id": order.reference, "name": order.name, "email": order.email}
        currency = {} if order.currency is None else {"currency": order.currency.upper()}
        return customer_of(self._api.write("POST", "customers", "customer", body | currency))

    def update_customer(self, customer_id: str, change: CustomerChange, key: str) -> Customer:
        """See Provider."""
        # The same call makes one where there is none, which is not what was asked for.
        self.customer(customer_id)
        body: Document = {"external_id": customer_id}
        body |= {name: value for name, value in (("name", change.name), ("email", change.email)) if value is not None}
        return customer_of(self._api.write("POST", "customers", "customer", body))

    def customer(self, customer_id: str) -> Customer:
        """See Provider."""
        return customer_of(self._api.get(f"customers/{segment(customer_id)}", "customer"))

    def find_customer(self, reference: str) -> Customer | None:
        """See Provider."""
        found = self._api.find(f"customers/{segment(reference)}", "customer")
        return None if found is None else customer_of(found)

    def customers(self, after: str | None = None, limit: int = 100) -> Page[Customer]:
        """See Provider."""
        found, following = self._api.page("customers", "customers", _number(after), limit)
        return Page(tuple(customer_of(one) for one in found), _cursor(following))

    # --- subscriptions

    def create_subscription(self, order: SubscriptionOrder, key: str) -> Subscription:
        """See Provider. The price is the code of a plan."""
        plan_code = self._plan_of([(item.price_id, item.quantity) for item in order.items])
        if order.trial_end is not None:
            raise unsupported("trials by subscription", "give the plan in Lago a trial.")
        if order.payment_method_id is not None:
            raise unsupported(*_METHODS)
        if order.promotion_code_id is not None:
            raise unsupported("promotion codes", "apply a coupon in Lago.")
        if order.anchor_day is not None:
            raise unsupported("anchor day of ours", "leave it out: periods follow the calendar, or the subscription's first day.")
        self._require_currency(plan_code, order.currency)
        body = {
            "external_customer_id": order.customer_id,
            "plan_code": plan_code,
            "external_id": order.reference,
            "billing_time": "calendar",
        }
        return self._subscription(self._api.write("POST", "subscriptions", "subscription", body))

    def update_subscription(self, subscription_id: str, change: SubscriptionChange, key: str) -> Subscription:
        """See Provider. Lago moves up to a dearer plan at once, and down to a cheaper one when the period ends."""
        if change.payment_method_id is not None:
            raise unsupported(*_METHODS)
        if change.promotion_code_id is not None or change.trial_end is not None:
            raise unsupported("promotions and trials by subscription", "change the plan or the coupon in Lago.")
        stands = self.subscription(subscription_id)
        if not change.items:
            return stands
        if any(item.deleted for item in change.items):
            raise unsupported("several items a subscription", "change the plan instead.")
        plan_code = self._plan_of([(item.price_id or stands.items[0].price_id, item.quantity) for item in change.items])
        self._require_currency(plan_code, stands.currency)
        body = {"external_customer_id": stands.customer_id, "plan_code": plan_code, "external_id": subscription_id}
        self._api.write("POST", "subscriptions", "subscription", body)
        return self.subscription(subscription_id)

    def preview_update(self, subscription_id: str, change: SubscriptionChange) -> Invoice:
        """See Provider."""
        raise unsupported("previews", "see the change in Lago.")

    def cancel_at_period_end(self, subscription_id: str, key: str) -> Subscription:
        """See Provider."""
        return self._end_at(subscription_id, self._alive(subscription_id).period_end)

    def cancel_now(self, subscription_id: str, key: str, *, prorate: bool = False) -> Subscription:
        """See Provider."""
        stands = self._alive(subscription_id)
        query: Query = {
            "on_termination_credit_note": "credit" if prorate else "skip",
            "on_termination_invoice": "generate",
        }
        if stands.status == "incomplete":
            query = {"status": "pending"}
        path = f"subscriptions/{segment(subscription_id)}"
        return self._subscription(self._api.write("DELETE", path, "subscription", query=query))

    def reactivate(self, subscription_id: str, key: str) -> Subscription:
        """See Provider."""
        self._alive(subscription_id)
        return self._end_at(subscription_id, None)

    def pause(self, subscription_id: str, behavior: PauseBehavior, resumes_at: datetime | None, key: str) -> Subscription:
        """See Provider."""
        raise unsupported("pause", "cancel the subscription at the period's end instead.")

    def resume(self, subscription_id: str, key: str) -> Subscription:
        """See Provider."""
        raise unsupported("pause", "there is nothing to resume.")

    def subscription(self, subscription_id: str) -> Subscription:
        """See Provider. Of several in one id (a plan after another) the one that runs, else the newest."""
        found = self._found(subscription_id)
        if found is None:
            raise NotFound("subscription_not_found", f"Lago has no subscription {subscription_id}.")
        return self._subscription(found)

    def find_subscription(self, customer_id: str, reference: str) -> Subscription | None:
        """See Provider."""
        found = self._found(reference)
        if found is None or found.get("external_customer_id") != customer_id:
            return None
        return self._subscription(found)

    def subscriptions(self, customer_id: str | None = None, after: str | None = None, limit: int = 100) -> Page[Subscription]:
        """See Provider."""
        query: Query = {"status[]": _STATES}
        if customer_id is not None:
            query["external_customer_id"] = customer_id
        found, following = self._api.page("subscriptions", "subscriptions", _number(after), limit, query)
        plans = {code: self._plan(code) for code in {one["plan_code"] for one in found}}
        return Page(tuple(subscription_of(one, plans[one["plan_code"]]) for one in found), _cursor(following))

    # --- payment methods

    def attach_payment_method(self, customer_id: str, token: str, key: str) -> PaymentMethod:
        """See Provider."""
        raise unsupported(*_METHODS)

    def detach_payment_method(self, method_id: str, key: str) -> PaymentMethod:
        """See Provider."""
        raise unsupported(*_METHODS)

    def set_default_payment_method(self, customer_id: str, method_id: str, key: str) -> Customer:
        """See Provider."""
        raise unsupported(*_METHODS)

    def payment_method(self, method_id: str) -> PaymentMethod:
        """See Provider."""
        raise unsupported(*_METHODS)

    def payment_methods(self, customer_id: str, after: str | None = None, limit: int = 100) -> Page[PaymentMethod]:
        """See Provider."""
        raise unsupported(*_METHODS)

    # --- invoices

    def invoice(self, invoice_id: str) -> Invoice:
        """See Provider."""
        return invoice_of(self._api.get(f"invoices/{segment(invoice_id)}", "invoice"))

    def invoices(
        self,
        customer_id: str | None = None,
        *,
        subscription_id: str | None = None,
        status: InvoiceStatus | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Invoice]:
        """See Provider. Lago does not filter by subscription, nor list fees: each invoice is fetched, and pages may be short."""
        query: Query = {} if status is None else dict(_WANTED[status])
        if customer_id is not None:
            query["external_customer_id"] = customer_id
        found, following = self._api.page("invoices", "invoices", _number(after), limit, query)
        whole = [self.invoice(one["lago_id"]) for one in found]
        kept = [one for one in whole if subscription_id in (None, one.subscription_id) and status in (None, one.status)]
        return Page(tuple(kept), _cursor(following))

    def upcoming_invoice(self, subscription_id: str) -> Invoice:
        """See Provider."""
        raise unsupported("previews", "see the running usage in Lago.")

    def generate_invoice(self, customer_id: str, currency: str, description: str, key: str) -> Invoice:
        """See Provider."""
        raise unsupported("invoices on demand", "it makes them when a period ends.")

    # --- usage

    def record_usage(self, event: UsageEvent) -> None:
        """See Provider. Lago counts by subscription; a repeated transaction is refused there, which says that it was told."""
        if event.subscription_reference is None:
            raise Refused("subscription_required", "Lago counts usage by subscription; say which one.")
        body = {
            "transaction_id": event.identifier,
            "external_subscription_id": event.subscription_reference,
            "code": event.meter,
            "timestamp": int(event.at.timestamp()),
            "properties": {"value": str(event.value)},
        }
        try:
            self._api.write("POST", "events", "event", body)
        except Refused as refused:
            if "transaction_id" not in refused.code or "value_already_exist" not in refused.message:
                raise

    # --- promotion codes

    def create_promotion_code(self, order: PromotionCodeOrder, key: str) -> PromotionCode:
        """See Provider."""
        raise unsupported("promotion codes", "make a coupon in Lago.")

    def deactivate_promotion_code(self, code_id: str, key: str) -> PromotionCode:
        """See Provider."""
        raise unsupported("promotion codes", "end the coupon in Lago.")

    def promotion_code(self, code_id: str) -> PromotionCode:
        """See Provider."""
        raise unsupported("promotion codes", "see the coupons in Lago.")

    def find_promotion_code(self, code: str) -> PromotionCode | None:
        """See Provider."""
        raise unsupported("promotion codes", "see the coupons in Lago.")

    # ---

    def _found(self, subscription_id: str) -> Document | None:
        path = f"subscriptions/{segment(subscription_id)}"
        for status in _STATES:
            found = self._api.find(path, "subscription", {"status": status})
            if found is not None:
                return found
        return None

    def _alive(self, subscription_id: str) -> Subscription:
        found = self.subscription(subscription_id)
        if found.status == "canceled":
            raise NotFound("subscription_not_found", f"The subscription {subscription_id} is over.")
        return found

    def _end_at(self, subscription_id: str, at: datetime | None) -> Subscription:
        text = None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"subscriptions/{segment(subscription_id)}"
        return self._subscription(self._api.write("PUT", path, "subscription", {"ending_at": text}))

    def _subscription(self, document: Document) -> Subscription:
        return subscription_of(document, self._plan(str(document.get("plan_code"))))

    def _plan(self, code: str) -> Document:
        return self._api.get(f"plans/{segment(code)}", "plan")

    def _require_currency(self, plan_code: str, currency: str) -> None:
        try:
            plan = self._plan(plan_code)
        except NotFound:
            raise Refused("plan_not_found", f"Lago has no plan {plan_code}; make it there.") from None
        if str(plan.get("amount_currency")).lower() != currency.lower():
            raise Refused(
                "wrong_currency", f"The plan {plan_code} is in {plan.get('amount_currency')}, not in {currency.upper()}."
            )

    @staticmethod
    def _plan_of(items: list[tuple[str, int | None]]) -> str:
        if len(items) != 1 or items[0][1] not in (None, 1):
            raise unsupported("several items a subscription, nor quantities", "order one plan.")
        return items[0][0]


_WANTED: Final[dict[InvoiceStatus, dict[str, str]]] = {
    "draft": {"status": "draft"},
    "open": {"status": "finalized"},
    "paid": {"status": "finalized", "payment_status": "succeeded"},
    "void": {"status": "voided"},
    "uncollectible": {"status": "finalized", "payment_status": "failed"},
}


def _number(after: str | None) -> int:
    """A cursor is the number of a page."""
    if after is None:
        return 1
    if not after.isascii() or not after.isdigit() or len(after) > 9:
        raise Refused("bad_cursor", "This is no cursor of Lago's lists.")
    return int(after)


def _cursor(number: int | None) -> str | None:
    return None if number is None else str(number)
