"""Which handler answers which method and path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from deploy.embedded.local_stripe import (
    catalog,
    customers,
    discounts,
    events,
    forms,
    invoice_calls,
    invoice_items,
    meter_event_fates,
    meter_events,
    meters,
    payment_methods,
    subscription_calls,
    webhook_endpoints,
)
from deploy.embedded.local_stripe.problems import Answer
from deploy.embedded.local_stripe.state import State, Work

Handler = Callable[..., Answer]
_ID = "([A-Za-z0-9_-]{1,100})"


def account(state: State, params: forms.Params) -> Answer:
    """GET /v1/account: whose key this is."""
    forms.only(params, ())
    return Answer(
        200,
        {
            "id": state.account,
            "object": "account",
            "business_type": None,
            "charges_enabled": True,
            "country": "US",
            "default_currency": "usd",
            "email": None,
            "metadata": {},
            "settings": {"dashboard": {"display_name": "Local Stripe", "timezone": "Etc/UTC"}},
            "type": "standard",
        },
    )


_ROUTES: tuple[tuple[str, re.Pattern[str], Handler], ...] = tuple(
    (method, re.compile(path.replace("{id}", _ID)), handler)
    for method, path, handler in (
        ("GET", "/v1/account", account),
        ("POST", "/v1/customers", customers.create),
        ("GET", "/v1/customers", customers.list_all),
        ("GET", "/v1/customers/{id}", customers.retrieve),
        ("POST", "/v1/customers/{id}", customers.update),
        ("DELETE", "/v1/customers/{id}", subscription_calls.delete_customer),
        ("GET", "/v1/customers/{id}/payment_methods", payment_methods.list_of_customer),
        ("POST", "/v1/billing/meters", meters.create),
        ("GET", "/v1/billing/meters", meters.list_all),
        ("GET", "/v1/billing/meters/{id}", meters.retrieve),
        ("POST", "/v1/billing/meters/{id}", meters.update),
        ("POST", "/v1/billing/meters/{id}/deactivate", meters.deactivate),
        ("POST", "/v1/billing/meters/{id}/reactivate", meters.reactivate),
        ("GET", "/v1/billing/meters/{id}/event_summaries", meter_events.summaries),
        ("POST", "/v1/billing/meter_events", meter_events.create),
        ("POST", "/v1/billing/meter_event_adjustments", meter_event_fates.adjust),
        ("POST", "/v1/products", catalog.create_product),
        ("GET", "/v1/products", catalog.list_products),
        ("GET", "/v1/products/{id}", catalog.retrieve_product),
        ("POST", "/v1/products/{id}", catalog.update_product),
        ("POST", "/v1/prices", catalog.create_price),
        ("GET", "/v1/prices", catalog.list_prices),
        ("GET", "/v1/prices/{id}", catalog.retrieve_price),
        ("POST", "/v1/prices/{id}", catalog.update_price),
        ("POST", "/v1/payment_methods", payment_methods.create),
        ("GET", "/v1/payment_methods", payment_methods.list_all),
        ("GET", "/v1/payment_methods/{id}", payment_methods.retrieve),
        ("POST", "/v1/payment_methods/{id}", payment_methods.update),
        ("POST", "/v1/payment_methods/{id}/attach", payment_methods.attach),
        ("POST", "/v1/payment_methods/{id}/detach", payment_methods.detach),
        ("POST", "/v1/coupons", discounts.create_coupon),
        ("GET", "/v1/coupons", discounts.list_coupons),
        ("GET", "/v1/coupons/{id}", discounts.retrieve_coupon),
        ("POST", "/v1/coupons/{id}", discounts.update_coupon),
        ("DELETE", "/v1/coupons/{id}", discounts.delete_coupon),
        ("POST", "/v1/promotion_codes", discounts.create_code),
        ("GET", "/v1/promotion_codes", discounts.list_codes),
        ("GET", "/v1/promotion_codes/{id}", discounts.retrieve_code),
        ("POST", "/v1/promotion_codes/{id}", discounts.update_code),
        ("POST", "/v1/subscriptions", subscription_calls.create),
        ("GET", "/v1/subscriptions", subscription_calls.list_all),
        ("GET", "/v1/subscriptions/{id}", subscription_calls.retrieve),
        ("POST", "/v1/subscriptions/{id}", subscription_calls.update),
        ("DELETE", "/v1/subscriptions/{id}", subscription_calls.cancel),
        ("POST", "/v1/subscriptions/{id}/resume", subscription_calls.resume),
        ("POST", "/v1/subscription_items", subscription_calls.create_item),
        ("GET", "/v1/subscription_items", subscription_calls.list_items),
        ("GET", "/v1/subscription_items/{id}", subscription_calls.retrieve_item),
        ("POST", "/v1/subscription_items/{id}", subscription_calls.update_item),
        ("DELETE", "/v1/subscription_items/{id}", subscription_calls.delete_item),
        ("POST", "/v1/invoices/create_preview", invoice_calls.preview),
        ("POST", "/v1/invoices", invoice_calls.create),
        ("GET", "/v1/invoices", invoice_calls.list_all),
        ("GET", "/v1/invoices/{id}", invoice_calls.retrieve),
        ("POST", "/v1/invoices/{id}", invoice_calls.update),
        ("DELETE", "/v1/invoices/{id}", invoice_calls.delete),
        ("GET", "/v1/invoices/{id}/lines", invoice_calls.lines),
        ("POST", "/v1/invoices/{id}/finalize", invoice_calls.finalize),
        ("POST", "/v1/invoices/{id}/pay", invoice_calls.pay),
        ("POST", "/v1/invoices/{id}/send", invoice_calls.send),
        ("POST", "/v1/invoices/{id}/void", invoice_calls.void),
        ("POST", "/v1/invoices/{id}/mark_uncollectible", invoice_calls.mark_uncollectible),
        ("POST", "/v1/invoiceitems", invoice_items.create),
        ("GET", "/v1/invoiceitems", invoice_items.list_all),
        ("GET", "/v1/invoiceitems/{id}", invoice_items.retrieve),
        ("DELETE", "/v1/invoiceitems/{id}", invoice_items.delete),
        ("POST", "/v1/webhook_endpoints", webhook_endpoints.create),
        ("GET", "/v1/webhook_endpoints", webhook_endpoints.list_all),
        ("GET", "/v1/webhook_endpoints/{id}", webhook_endpoints.retrieve),
        ("POST", "/v1/webhook_endpoints/{id}", webhook_endpoints.update),
        ("DELETE", "/v1/webhook_endpoints/{id}", webhook_endpoints.delete),
        ("GET", "/v1/events", events.list_all),
        ("GET", "/v1/events/{id}", events.retrieve),
        ("POST", "/v2/core/event_destinations", webhook_endpoints.create_destination),
        ("GET", "/v2/core/event_destinations", webhook_endpoints.list_destinations),
        ("DELETE", "/v2/core/event_destinations/{id}", webhook_endpoints.delete_destination),
        ("GET", "/v2/core/events/{id}", events.retrieve_thin),
    )
)


class Call(NamedTuple):
    """A handler with the ids of its path."""

    handler: Handler
    ids: tuple[str, ...]

    def work(self, params: forms.Params) -> Work:
        """The call as work for the state's thread."""
        return lambda state: self.handler(state, params, *self.ids)


def find(method: str, path: str) -> Call | None:
    """The call that a request means, None where Stripe has no such URL or this local one lacks it."""
    for wanted, pattern, handler in _ROUTES:
        if wanted == method and (match := pattern.fullmatch(path)) is not None:
            return Call(handler, match.groups())
    return None
