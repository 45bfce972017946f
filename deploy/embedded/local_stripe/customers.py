"""Customers: create, retrieve, update, list."""

from __future__ import annotations

import json
from typing import Any

from deploy.embedded.local_stripe import events, forms, metadata, objects
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.paging import PAGING, list_table
from deploy.embedded.local_stripe.problems import Answer, absent, wrong
from deploy.embedded.local_stripe.state import State

_TEXTS = {"name": 256, "email": 512, "description": 5_000, "phone": 20}
_ADDRESS = ("line1", "line2", "city", "state", "postal_code", "country")
_FIELDS = (*_TEXTS, "metadata", "address", "tax_exempt", "invoice_settings", "balance")


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/customers"""
    body: dict[str, Any] = {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": state.clock.now(),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": None,
        "invoice_settings": {"default_payment_method": None},
        "livemode": False,
        "metadata": {},
        "name": None,
        "phone": None,
        "tax_exempt": "none",
    }
    _change(state, body, params)
    state.database.execute(
        "INSERT INTO customers (id, email, body) VALUES (?, ?, ?)", (body["id"], body["email"], json.dumps(body))
    )
    events.record(state, "customer.created", body)
    return Answer(200, body)


def retrieve(state: State, params: forms.Params, customer: str) -> Answer:
    """GET /v1/customers/{id}; a deleted one is answered as such."""
    forms.only(params, ())
    body, deleted = _row(state, customer)
    return Answer(200, tombstone(customer) if deleted else body)


def update(state: State, params: forms.Params, customer: str) -> Answer:
    """POST /v1/customers/{id}"""
    body, deleted = _row(state, customer)
    if deleted:
        raise absent("customer", customer)
    before = dict(body)
    _change(state, body, params)
    _save(state, body)
    events.record(state, "customer.updated", body, before)
    return Answer(200, body)


def mark_deleted(state: State, customer: str) -> dict[str, Any]:
    """The customer is gone; returns how it was. Raises Problem where there is none."""
    body, deleted = _row(state, customer)
    if deleted:
        raise absent("customer", customer)
    state.database.execute("UPDATE customers SET deleted = 1 WHERE id = ?", (customer,))
    return body


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/customers; `email` filters exactly."""
    forms.only(params, (*PAGING, "email"))
    where: dict[str, object] = {"deleted": 0}
    email = forms.text_of(params, "email")
    if email:
        where["email"] = email
    return Answer(200, list_table(state.database, "customers", "customer", "/v1/customers", params, where))


def exists(state: State, customer: str) -> bool:
    """Whether there is such a customer, and it is not deleted."""
    return state.database.execute("SELECT 1 FROM customers WHERE id = ? AND NOT deleted", (customer,)).fetchone() is not None


def body_of(state: State, customer: str, param: str = "customer") -> dict[str, Any]:
    """A customer that is there. Raises Problem."""
    if not exists(state, customer):
        raise absent("customer", customer, param, status=400)
    return _row(state, customer)[0]


def set_balance(state: State, customer: str, balance: int) -> None:
    """What the customer owes (or, below zero, has to its credit) beside invoices."""
    body = body_of(state, customer)
    body["balance"] = balance
    _save(state, body)


def set_currency(state: State, customer: str, currency: str) -> None:
    """The currency that the customer is billed in from now on."""
    body = body_of(state, customer)
    body["currency"] = currency
    _save(state, body)


def forget_default(state: State, customer: str, method: str) -> None:
    """The method is no longer the customer's; where it was the default there is none."""
    body, deleted = _row(state, customer)
    if not deleted and body["invoice_settings"]["default_payment_method"] == method:
        body["invoice_settings"]["default_payment_method"] = None
        _save(state, body)


def _save(state: State, body: dict[str, Any]) -> None:
    state.database.execute("UPDATE customers SET email = ?, body = ? WHERE id = ?", (body["email"], json.dumps(body), body["id"]))


def _row(state: State, customer: str) -> tuple[dict[str, Any], bool]:
    row = state.database.execute("SELECT body, deleted FROM customers WHERE id = ?", (customer,)).fetchone()
    if row is None:
        raise absent("customer", customer)
    return json.loads(row[0]), bool(row[1])


def tombstone(customer: str) -> dict[str, object]:
    """What is answered for a customer that was deleted."""
    return {"id": customer, "object": "customer", "deleted": True}


def _change(state: State, body: dict[str, Any], params: forms.Params) -> None:
    forms.only(params, _FIELDS)
    if (balance := forms.integer_of(params, "balance")) is not None:
        body["balance"] = balance
    if "invoice_settings" in params:
        given = forms.inner_of(params, "invoice_settings")
        forms.only(given, ("default_payment_method",))
        method = forms.text_of(given, "default_payment_method")
        param = "invoice_settings[default_payment_method]"
        if method and objects.get(state, "payment_method", method, param, 400)["customer"] != body["id"]:
            raise absent("PaymentMethod", method, param, 400)
        body["invoice_settings"] = {"default_payment_method": method or None}
    for name, most in _TEXTS.items():
        value = forms.text_of(params, name, most=most)
        if value is not None:
            body[name] = value or None
    if (exempt := forms.choice_of(params, "tax_exempt", ("none", "exempt", "reverse"))) is not None:
        body["tax_exempt"] = exempt
    if "address" in params:
        address = forms.map_of(params, "address")
        for name in address:
            if name not in _ADDRESS:
                raise wrong(f"address[{name}]", "no such field")
        body["address"] = {name: address.get(name) or None for name in _ADDRESS} if address else None
    metadata.change(body, params)
