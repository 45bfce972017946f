"""Documents by kind: kept as JSON beside the few columns by which they are looked up."""

from __future__ import annotations

import json
from typing import Any

from deploy.embedded.local_stripe.forms import Params
from deploy.embedded.local_stripe.paging import list_table
from deploy.embedded.local_stripe.problems import absent
from deploy.embedded.local_stripe.state import State

Body = dict[str, Any]

NOUNS = {
    "coupon": "coupon",
    "event": "event",
    "event_destination": "event destination",
    "invoice": "invoice",
    "invoiceitem": "invoiceitem",
    "payment_method": "PaymentMethod",
    "price": "price",
    "product": "product",
    "promotion_code": "promotion code",
    "subscription": "subscription",
    "subscription_item": "subscription_item",
    "thin_event": "event",
    "webhook_endpoint": "webhook endpoint",
}
"""How Stripe's errors call each kind."""

_COLUMNS = ("customer", "parent", "name", "status", "due")


def insert(state: State, kind: str, body: Body, **columns: str | int | None) -> None:
    """A new document. `columns` are of _COLUMNS."""
    assert kind in NOUNS
    assert set(columns) <= set(_COLUMNS)
    names = ("kind", "id", "body", *columns)
    state.database.execute(
        f"INSERT INTO objects ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        (kind, body["id"], json.dumps(body), *columns.values()),
    )


def save(state: State, body: Body, **columns: str | int | None) -> None:
    """The document as it is now; columns that are not given stay."""
    assert set(columns) <= set(_COLUMNS)
    changes = ", ".join(["body = ?", *(f"{name} = ?" for name in columns)])
    state.database.execute(f"UPDATE objects SET {changes} WHERE id = ?", (json.dumps(body), *columns.values(), body["id"]))


def remove(state: State, identifier: str) -> None:
    """The document is gone."""
    state.database.execute("DELETE FROM objects WHERE id = ?", (identifier,))


def get(state: State, kind: str, identifier: str, param: str = "id", status: int = 404) -> Body:
    """The document. Raises the Problem that Stripe answers when it is not there."""
    row = state.database.execute("SELECT body FROM objects WHERE id = ? AND kind = ?", (identifier, kind)).fetchone()
    if row is None:
        raise absent(NOUNS[kind], identifier, param, status)
    body: Body = json.loads(row[0])
    return body


def find(state: State, kind: str, **where: str) -> list[Body]:
    """All documents of a kind with these columns, oldest first."""
    assert set(where) <= set(_COLUMNS)
    conditions = " AND ".join(["kind = ?", *(f"{name} = ?" for name in where)])
    rows = state.database.execute(f"SELECT body FROM objects WHERE {conditions} ORDER BY seq", (kind, *where.values()))
    return [json.loads(body) for (body,) in rows]


def page(state: State, kind: str, url: str, params: Params, **where: str | None) -> Body:
    """A page of the list; a filter that is None does not filter."""
    wanted: dict[str, object] = {"kind": kind, **{name: value for name, value in where.items() if value is not None}}
    return list_table(state.database, "objects", NOUNS[kind], url, params, wanted)
