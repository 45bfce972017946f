"""Customers: create, retrieve, update, delete, list; metadata merges key by key."""

from __future__ import annotations

import json

from deploy.embedded.local_stripe import forms
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.paging import PAGING, list_table
from deploy.embedded.local_stripe.problems import Answer, absent, wrong
from deploy.embedded.local_stripe.state import State

_TEXTS = {"name": 256, "email": 512, "description": 5_000, "phone": 20}
_ADDRESS = ("line1", "line2", "city", "state", "postal_code", "country")
_FIELDS = (*_TEXTS, "metadata", "address", "tax_exempt")

METADATA_KEYS_MAX = 50
METADATA_KEY_CHARS_MAX = 40
METADATA_VALUE_CHARS_MAX = 500


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/customers"""
    body: dict[str, object] = {
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
    _change(body, params)
    state.database.execute(
        "INSERT INTO customers (id, email, body) VALUES (?, ?, ?)", (body["id"], body["email"], json.dumps(body))
    )
    return Answer(200, body)


def retrieve(state: State, params: forms.Params, customer: str) -> Answer:
    """GET /v1/customers/{id}; a deleted one is answered as such."""
    forms.only(params, ())
    body, deleted = _row(state, customer)
    return Answer(200, _tombstone(customer) if deleted else body)


def update(state: State, params: forms.Params, customer: str) -> Answer:
    """POST /v1/customers/{id}"""
    body, deleted = _row(state, customer)
    if deleted:
        raise absent("customer", customer)
    _change(body, params)
    state.database.execute("UPDATE customers SET email = ?, body = ? WHERE id = ?", (body["email"], json.dumps(body), customer))
    return Answer(200, body)


def delete(state: State, params: forms.Params, customer: str) -> Answer:
    """DELETE /v1/customers/{id}"""
    forms.only(params, ())
    _, deleted = _row(state, customer)
    if deleted:
        raise absent("customer", customer)
    state.database.execute("UPDATE customers SET deleted = 1 WHERE id = ?", (customer,))
    return Answer(200, _tombstone(customer))


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


def _row(state: State, customer: str) -> tuple[dict[str, object], bool]:
    row = state.database.execute("SELECT body, deleted FROM customers WHERE id = ?", (customer,)).fetchone()
    if row is None:
        raise absent("customer", customer)
    return json.loads(row[0]), bool(row[1])


def _tombstone(customer: str) -> dict[str, object]:
    return {"id": customer, "object": "customer", "deleted": True}


def _change(body: dict[str, object], params: forms.Params) -> None:
    forms.only(params, _FIELDS)
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
    if "metadata" in params:
        kept = body["metadata"]
        assert isinstance(kept, dict)
        body["metadata"] = merged_metadata(kept, forms.map_of(params, "metadata"), params["metadata"] == "")


def merged_metadata(kept: dict[str, str], given: dict[str, str], clear: bool) -> dict[str, str]:
    """Stripe's rule: a given key is set, an empty value removes its key, an empty map removes all."""
    if clear:
        return {}
    result = dict(kept)
    for key, value in given.items():
        if len(key) > METADATA_KEY_CHARS_MAX:
            raise wrong(f"metadata[{key[:40]}]", f"a key has at most {METADATA_KEY_CHARS_MAX} characters")
        if len(value) > METADATA_VALUE_CHARS_MAX:
            raise wrong(f"metadata[{key}]", f"a value has at most {METADATA_VALUE_CHARS_MAX} characters")
        if value == "":
            result.pop(key, None)
        else:
            result[key] = value
    if len(result) > METADATA_KEYS_MAX:
        raise wrong("metadata", f"at most {METADATA_KEYS_MAX} keys")
    return result
