"""Stripe as a payment provider, on the official SDK. The only module of the control plane that imports `stripe`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar

import stripe

from control_plane.provider.errors import Ambiguous, Away, NotFound, ProviderError, RateLimited, Refused
from control_plane.provider.port import Capability
from control_plane.provider.stripe_objects import (
    customer_of,
    invoice_of,
    payment_method_of,
    promotion_code_of,
    subscription_of,
)
from control_plane.provider.stripe_params import (
    changed_params,
    code_params,
    coupon_params,
    customer_params,
    pause_params,
    seconds,
    subscription_params,
    without_none,
)
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

T = TypeVar("T")

RETRIES_MAX = 2
"""Of one call, by the SDK, with one and the same idempotency key."""
_PAGE = 100
_WALK_MAX = 1_000_000
_LINES_MAX = 10_000
_NOT_CONNECTED = {"ConnectTimeout", "NewConnectionError", "ConnectTimeoutError", "NameResolutionError"}
_DUPLICATE_EVENT = "An event already exists with identifier "

_CAPABILITIES: frozenset[Capability] = frozenset(
    {"payment_methods", "items", "anchor", "trials", "pause", "preview", "generate_invoice", "promotion_codes"}
)


class StripeProvider:
    """See Provider."""

    name = "stripe"
    capabilities = _CAPABILITIES

    def __init__(self, key: str, *, api_base: str | None, timeout_s: float) -> None:
        # Stripe would be told the duration of the previous call with each one; nobody here wants that.
        stripe.enable_telemetry = False
        self._key = key
        self._account: str | None = None
        self._v1 = stripe.StripeClient(
            key,
            base_addresses={"api": api_base.rstrip("/")} if api_base else {},
            http_client=stripe.RequestsClient(timeout=(min(timeout_s, 10.0), timeout_s)),
            max_network_retries=RETRIES_MAX,
        ).v1

    @property
    def livemode(self) -> bool:
        """Told by the key's prefix: secret and restricted keys both have it."""
        return not self._key.startswith(("sk_test_", "rk_test_"))

    def account(self) -> str:
        """See Provider. Asked once: a key never changes whose it is."""
        if self._account is None:
            self._account = _call(self._v1.accounts.retrieve_current).id
        return self._account

    def create_customer(self, order: CustomerOrder, key: str) -> Customer:
        """See Provider."""
        params: Any = customer_params(order)
        return customer_of(_document(lambda: self._v1.customers.create(params, _options(key))))

    def update_customer(self, customer_id: str, change: CustomerChange, key: str) -> Customer:
        """See Provider."""
        params: Any = {name: value for name, value in (("name", change.name), ("email", change.email)) if value is not None}
        return customer_of(_document(lambda: self._v1.customers.update(customer_id, params, _options(key))))

    def customer(self, customer_id: str) -> Customer:
        """See Provider."""
        body = _document(lambda: self._v1.customers.retrieve(customer_id))
        if body.get("deleted"):
            raise NotFound("resource_missing", f"The customer {customer_id} is deleted.")
        return customer_of(body)

    def find_customer(self, reference: str) -> Customer | None:
        """See Provider."""
        found = [one for one in map(customer_of, _walk(self._v1.customers.list, {})) if one.reference == reference]
        # Newest first, so the oldest is the last.
        return found[-1] if found else None

    def customers(self, after: str | None = None, limit: int = _PAGE) -> Page[Customer]:
        """See Provider."""
        return _page(self._v1.customers.list, {}, after, limit, customer_of)

    def create_subscription(self, order: SubscriptionOrder, key: str) -> Subscription:
        """See Provider."""
        params: Any = subscription_params(order)
        return subscription_of(_document(lambda: self._v1.subscriptions.create(params, _options(key))))

    def update_subscription(self, subscription_id: str, change: SubscriptionChange, key: str) -> Subscription:
        """See Provider."""
        return self._update(subscription_id, changed_params(change), key)

    def preview_update(self, subscription_id: str, change: SubscriptionChange) -> Invoice:
        """See Provider."""
        details = changed_params(change)
        params: Any = {"subscription": subscription_id, "subscription_details": details}
        if (discounts := details.pop("discounts", None)) is not None:
            params["discounts"] = discounts
        details.pop("default_payment_method", None)
        return invoice_of(_document(lambda: self._v1.invoices.create_preview(params)))

    def cancel_at_period_end(self, subscription_id: str, key: str) -> Subscription:
        """See Provider."""
        return self._update(subscription_id, {"cancel_at_period_end": True}, key)

    def cancel_now(self, subscription_id: str, key: str, *, prorate: bool = False) -> Subscription:
        """See Provider. Stripe takes no key for this: a repeat finds that it is over, which is NotFound."""
        params: Any = {"invoice_now": True, "prorate": prorate}
        return subscription_of(_document(lambda: self._v1.subscriptions.cancel(subscription_id, params, _options(key))))

    def reactivate(self, subscription_id: str, key: str) -> Subscription:
        """See Provider."""
        return self._update(subscription_id, {"cancel_at_period_end": False}, key)

    def pause(self, subscription_id: str, behavior: PauseBehavior, resumes_at: datetime | None, key: str) -> Subscription:
        """See Provider."""
        return self._update(subscription_id, {"pause_collection": pause_params(behavior, resumes_at)}, key)

    def resume(self, subscription_id: str, key: str) -> Subscription:
        """See Provider."""
        if self.subscription(subscription_id).status == "paused":
            return subscription_of(_document(lambda: self._v1.subscriptions.resume(subscription_id, {}, _options(key))))
        return self._update(subscription_id, {"pause_collection": ""}, key)

    def subscription(self, subscription_id: str) -> Subscription:
        """See Provider."""
        return subscription_of(_document(lambda: self._v1.subscriptions.retrieve(subscription_id)))

    def find_subscription(self, customer_id: str, reference: str) -> Subscription | None:
        """See Provider. Stripe's lists, unlike its search, show what was written before."""
        listed = _walk(self._v1.subscriptions.list, {"customer": customer_id, "status": "all"})
        return next((one for one in map(subscription_of, listed) if one.reference == reference), None)

    def subscriptions(self, customer_id: str | None = None, after: str | None = None, limit: int = _PAGE) -> Page[Subscription]:
        """See Provider."""
        filters = without_none({"customer": customer_id, "status": "all"})
        return _page(self._v1.subscriptions.list, filters, after, limit, subscription_of)

    def attach_payment_method(self, customer_id: str, token: str, key: str) -> PaymentMethod:
        """See Provider."""
        return payment_method_of(
            _document(lambda: self._v1.payment_methods.attach(token, {"customer": customer_id}, _options(key)))
        )

    def detach_payment_method(self, method_id: str, key: str) -> PaymentMethod:
        """See Provider."""
        return payment_method_of(_document(lambda: self._v1.payment_methods.detach(method_id, {}, _options(key))))

    def set_default_payment_method(self, customer_id: str, method_id: str, key: str) -> Customer:
        """See Provider."""
        params: Any = {"invoice_settings": {"default_payment_method": method_id}}
        return customer_of(_document(lambda: self._v1.customers.update(customer_id, params, _options(key))))

    def payment_method(self, method_id: str) -> PaymentMethod:
        """See Provider."""
        return payment_method_of(_document(lambda: self._v1.payment_methods.retrieve(method_id)))

    def payment_methods(self, customer_id: str, after: str | None = None, limit: int = _PAGE) -> Page[PaymentMethod]:
        """See Provider."""
        return _page(self._v1.payment_methods.list, {"customer": customer_id}, after, limit, payment_method_of)

    def invoice(self, invoice_id: str) -> Invoice:
        """See Provider."""
        body = _document(lambda: self._v1.invoices.retrieve(invoice_id))
        if not body["lines"]["has_more"]:
            return invoice_of(body)
        lines = _walk(lambda params: self._v1.invoices.line_items.list(invoice_id, params), {}, _LINES_MAX)
        return invoice_of(body, list(lines))

    def invoices(
        self,
        customer_id: str | None = None,
        *,
        subscription_id: str | None = None,
        status: InvoiceStatus | None = None,
        after: str | None = None,
        limit: int = _PAGE,
    ) -> Page[Invoice]:
        """See Provider."""
        filters = without_none({"customer": customer_id, "subscription": subscription_id, "status": status})
        return _page(self._v1.invoices.list, filters, after, limit, invoice_of)

    def upcoming_invoice(self, subscription_id: str) -> Invoice:
        """See Provider."""
        return invoice_of(_document(lambda: self._v1.invoices.create_preview({"subscription": subscription_id})))

    def generate_invoice(self, customer_id: str, currency: str, description: str, key: str) -> Invoice:
        """See Provider. A draft with nothing in it is taken away again."""
        params: Any = {
            "customer": customer_id,
            "currency": currency,
            "description": description,
            "pending_invoice_items_behavior": "include",
            "auto_advance": True,
        }
        draft = invoice_of(_document(lambda: self._v1.invoices.create(params, _options(key))))
        if not draft.lines:
            _call(lambda: self._v1.invoices.delete(draft.id))
            raise Refused("nothing_to_invoice", "Nothing is pending for this customer; usage is billed when its period ends.")
        return invoice_of(
            _document(lambda: self._v1.invoices.finalize_invoice(draft.id, {"auto_advance": True}, _options(f"{key}-final")))
        )

    def record_usage(self, event: UsageEvent) -> None:
        """See Provider."""
        try:
            _call(
                lambda: self._v1.billing.meter_events.create(
                    {
                        "event_name": event.meter,
                        "identifier": event.identifier,
                        "timestamp": seconds(event.at),
                        "payload": {"stripe_customer_id": event.customer_id, "value": str(event.value)},
                    }
                )
            )
        except Refused as refused:
            if not (refused.message.startswith(_DUPLICATE_EVENT) and event.identifier in refused.message):
                raise

    def create_promotion_code(self, order: PromotionCodeOrder, key: str) -> PromotionCode:
        """See Provider. The coupon is made first, then the code that gives it."""
        coupon: Any = coupon_params(order)
        made = _document(lambda: self._v1.coupons.create(coupon, _options(f"{key}-coupon")))
        code: Any = code_params(order, made["id"])
        return promotion_code_of(_document(lambda: self._v1.promotion_codes.create(code, _options(key))), made)

    def deactivate_promotion_code(self, code_id: str, key: str) -> PromotionCode:
        """See Provider."""
        return self._code(_document(lambda: self._v1.promotion_codes.update(code_id, {"active": False}, _options(key))))

    def promotion_code(self, code_id: str) -> PromotionCode:
        """See Provider."""
        return self._code(_document(lambda: self._v1.promotion_codes.retrieve(code_id)))

    def find_promotion_code(self, code: str) -> PromotionCode | None:
        """See Provider."""
        found = [one.to_dict() for one in _call(lambda: self._v1.promotion_codes.list({"code": code, "limit": _PAGE})).data]
        found.sort(key=lambda body: not body["active"])
        return self._code(found[0]) if found else None

    def _code(self, body: dict[str, Any]) -> PromotionCode:
        coupon = body["promotion"]["coupon"]
        return promotion_code_of(body, _document(lambda: self._v1.coupons.retrieve(coupon)))

    def _update(self, subscription_id: str, params: Any, key: str) -> Subscription:
        return subscription_of(_document(lambda: self._v1.subscriptions.update(subscription_id, params, _options(key))))


def _options(key: str) -> stripe.RequestOptions:
    """Any text fits the header once it is hashed."""
    return {"idempotency_key": f"meterline-{hashlib.sha256(key.encode()).hexdigest()}"}


def _document(work: Callable[[], stripe.StripeObject]) -> dict[str, Any]:
    return _call(work).to_dict()


def _page(
    listing: Callable[[Any], stripe.ListObject[Any]],
    filters: dict[str, Any],
    after: str | None,
    limit: int,
    of: Callable[[dict[str, Any]], T],
) -> Page[T]:
    listed = _call(lambda: listing(without_none({**filters, "limit": limit, "starting_after": after})))
    found = [one.to_dict() for one in listed.data]
    return Page(tuple(of(body) for body in found), found[-1]["id"] if listed.has_more and found else None)


def _walk(
    listing: Callable[[Any], stripe.ListObject[Any]], filters: dict[str, Any], most: int = _WALK_MAX
) -> Iterator[dict[str, Any]]:
    """Every object; each page is a call."""
    seen, after = 0, None
    while True:
        page = _page(listing, filters, after, _PAGE, lambda body: body)
        yield from page.items
        seen, after = seen + len(page.items), page.next
        if after is None:
            return
        if seen >= most:
            raise Refused("too_many", f"Stripe lists more than {most} objects here.")


def _call(work: Callable[[], T]) -> T:
    """Runs a call; turns the SDK's errors into the port's."""
    try:
        return work()
    except stripe.StripeError as error:
        raise _error(error) from error


def _error(error: stripe.StripeError) -> ProviderError:
    message = error.user_message or type(error).__name__
    code = (error.error.code if error.error is not None else None) or error.code or "stripe_error"
    status = error.http_status
    if isinstance(error, stripe.APIConnectionError) or status is None:
        if _never_connected(error):
            return Away("no_connection", "Stripe cannot be reached.")
        return Ambiguous("no_answer", "Stripe did not answer in time.", ended=False)
    if isinstance(error, stripe.IdempotencyError):
        return Refused("idempotency_key_reused", message)
    if status in (401, 403):
        return Away("credentials", f"Stripe does not take the key: {message}")
    if status == 404 or (status == 400 and code == "resource_missing" and _names_the_path(error)):
        return NotFound(code, message)
    if status == 429 or status == 409:
        return RateLimited(code, message, _after_s(error))
    if status >= 500 or status < 400:
        return Ambiguous(code, message, ended=True)
    return Refused(code, message)


def _names_the_path(error: stripe.StripeError) -> bool:
    """Whether it is the object of the call that is missing, and not one that a parameter names."""
    return isinstance(error, stripe.InvalidRequestError) and error.param in (None, "id")


def _never_connected(error: stripe.StripeError) -> bool:
    """Whether nothing was sent. Told by names: the SDK's HTTP library is its own affair, and no dependency of ours."""
    cause = error.__cause__
    reason = getattr(cause.args[0], "reason", None) if cause is not None and cause.args else None
    return {type(cause).__name__, type(reason).__name__} & _NOT_CONNECTED != set()


def _after_s(error: stripe.StripeError) -> float:
    text = (error.headers or {}).get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 6 else 1.0
