"""Payment methods: cards by Stripe's test names, attached to customers. Charging one succeeds or fails by its name."""

from __future__ import annotations

import hashlib

from deploy.embedded.local_stripe import customers, events, forms, metadata, objects
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING
from deploy.embedded.local_stripe.problems import Answer, Problem, absent, missing, wrong
from deploy.embedded.local_stripe.state import State

CARDS = {
    # test name: (brand, last four, whether it can be charged)
    "visa": ("visa", "4242", True),
    "mastercard": ("mastercard", "4444", True),
    "amex": ("amex", "0005", True),
    "chargeCustomerFail": ("visa", "0341", False),
    "chargeDeclined": ("visa", "0002", False),
}
METHODS_MAX = 200
"""Most that one customer has."""


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/payment_methods: a card by token, `card[token]=tok_visa`. Card numbers are not taken here."""
    forms.only(params, ("type", "card", "billing_details", "metadata"))
    if forms.required_text(params, "type") != "card":
        raise wrong("type", "only card is known here")
    token = forms.map_of(params, "card").get("token")
    if token is None:
        raise missing("card[token]")
    body = _made(state, token.removeprefix("tok_"), "card[token]", params)
    return Answer(200, body)


def retrieve(state: State, params: forms.Params, method: str) -> Answer:
    """GET /v1/payment_methods/{id}"""
    forms.only(params, ())
    return Answer(200, objects.get(state, "payment_method", method))


def update(state: State, params: forms.Params, method: str) -> Answer:
    """POST /v1/payment_methods/{id}: its expiry, whose it is, metadata."""
    forms.only(params, ("card", "billing_details", "metadata"))
    body = objects.get(state, "payment_method", method)
    before = {**body, "card": dict(body["card"])}
    for name, text in forms.map_of(params, "card").items():
        if name not in ("exp_month", "exp_year") or not text.isdigit():
            raise wrong(f"card[{name}]", "only the expiry changes")
        body["card"][name] = int(text)
    if "billing_details" in params:
        body["billing_details"] |= _billing_details(params)
    metadata.change(body, params)
    objects.save(state, body)
    events.record(state, "payment_method.updated", body, before)
    return Answer(200, body)


def attach(state: State, params: forms.Params, method: str) -> Answer:
    """POST /v1/payment_methods/{id}/attach. A test name such as pm_card_visa makes a new method each time."""
    forms.only(params, ("customer",))
    customer = forms.required_text(params, "customer")
    if not customers.exists(state, customer):
        raise absent("customer", customer, "customer", 400)
    if method.startswith("pm_card_"):
        body = _made(state, method.removeprefix("pm_card_"), "payment_method", {})
    else:
        body = objects.get(state, "payment_method", method)
    if body["customer"] not in (None, customer):
        raise Problem("The payment method is attached to a customer already; detach it first.", param="payment_method")
    if body["customer"] is None and len(objects.find(state, "payment_method", customer=customer)) >= METHODS_MAX:
        raise Problem(f"A customer has at most {METHODS_MAX} payment methods.", param="customer")
    body["customer"] = customer
    objects.save(state, body, customer=customer)
    events.record(state, "payment_method.attached", body)
    return Answer(200, body)


def detach(state: State, params: forms.Params, method: str) -> Answer:
    """POST /v1/payment_methods/{id}/detach; for good."""
    forms.only(params, ())
    body = objects.get(state, "payment_method", method)
    customer = body["customer"]
    if customer is None:
        raise Problem("The payment method is not attached to a customer.", param="payment_method")
    body["customer"] = None
    objects.save(state, body, customer=None)
    customers.forget_default(state, customer, method)
    events.record(state, "payment_method.detached", body, {"customer": customer})
    return Answer(200, body)


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/payment_methods?customer="""
    forms.only(params, (*PAGING, "customer", "type"))
    customer = forms.required_text(params, "customer")
    return Answer(200, objects.page(state, "payment_method", "/v1/payment_methods", params, customer=customer))


def list_of_customer(state: State, params: forms.Params, customer: str) -> Answer:
    """GET /v1/customers/{id}/payment_methods"""
    forms.only(params, (*PAGING, "type"))
    url = f"/v1/customers/{customer}/payment_methods"
    return Answer(200, objects.page(state, "payment_method", url, params, customer=customer))


def of_customer(state: State, customer: str, method: str, param: str) -> str:
    """The id of a method that is attached to this customer. Raises Problem."""
    body = objects.get(state, "payment_method", method, param, 400)
    if body["customer"] != customer:
        raise Problem(f"The payment method {method} is not attached to {customer}.", code="resource_missing", param=param)
    return method


def charges(state: State, method: str) -> bool:
    """Whether a charge of this method succeeds."""
    card = objects.get(state, "payment_method", method)["card"]
    return all(works for _, last4, works in CARDS.values() if last4 == card["last4"])


def _made(state: State, name: str, param: str, params: forms.Params) -> Body:
    if name not in CARDS:
        raise absent("token", name, param, 400)
    brand, last4, _ = CARDS[name]
    body: Body = {
        "id": new_id("pm", 24),
        "object": "payment_method",
        "billing_details": {"address": None, "email": None, "name": None, "phone": None} | _billing_details(params),
        "card": {
            "brand": brand,
            "country": "US",
            "exp_month": 12,
            "exp_year": 2040,
            "fingerprint": hashlib.sha256(last4.encode()).hexdigest()[:16],
            "funding": "credit",
            "last4": last4,
        },
        "created": state.clock.now(),
        "customer": None,
        "livemode": False,
        "metadata": metadata.of(params),
        "type": "card",
    }
    objects.insert(state, "payment_method", body)
    return body


def _billing_details(params: forms.Params) -> Body:
    given = forms.inner_of(params, "billing_details")
    forms.only(given, ("address", "email", "name", "phone"))
    return {name: forms.text_of(given, name) or None for name in ("email", "name", "phone") if name in given}
