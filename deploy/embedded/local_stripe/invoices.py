"""Invoices: made as drafts, final after an hour or when told, then paid, open, void or uncollectible."""

from __future__ import annotations

from deploy.embedded.local_stripe import (
    customers,
    events,
    invoice_items,
    invoice_lines,
    objects,
    payment_methods,
    subscription_state,
)
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.problems import Problem
from deploy.embedded.local_stripe.state import State

DRAFT_S = 3_600
"""How long a draft that advances by itself waits for late usage."""
RETRY_S = (3 * 86_400, 5 * 86_400, 7 * 86_400)
"""After each failed payment; then it is left open."""
DUE_DAYS_DEFAULT = 30


def make(
    state: State,
    now: int,
    customer: str,
    currency: str,
    lines: list[Body],
    reason: str,
    *,
    span: tuple[int, int],
    subscription: Body | None = None,
    discounts: list[Body] | None = None,
    auto_advance: bool = True,
    collection_method: str = "charge_automatically",
    days_until_due: int | None = None,
) -> Body:
    """A draft that is not on record yet."""
    who = customers.body_of(state, customer)
    parent = None
    if subscription is not None:
        details = {"metadata": subscription["metadata"], "subscription": subscription["id"], "subscription_proration_date": None}
        parent = {"quote_details": None, "subscription_details": details, "type": "subscription_details"}
    body: Body = {
        "id": new_id("in", 24),
        "object": "invoice",
        "account_country": "US",
        "account_name": "Local Stripe",
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": auto_advance,
        "automatic_tax": {"enabled": False, "liability": None, "status": None},
        "automatically_finalizes_at": now + DRAFT_S if auto_advance else None,
        "billing_reason": reason,
        "collection_method": collection_method,
        "created": now,
        "currency": currency,
        "custom_fields": None,
        "customer": customer,
        "customer_email": who["email"],
        "customer_name": who["name"],
        "default_payment_method": None,
        "description": None,
        "discounts": [one["id"] for one in discounts or []],
        "due_date": now + (days_until_due or DUE_DAYS_DEFAULT) * 86_400 if collection_method == "send_invoice" else None,
        "ending_balance": None,
        "footer": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "lines": {"object": "list", "data": lines, "has_more": False, "url": ""},
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": now + DRAFT_S if auto_advance and collection_method == "charge_automatically" else None,
        "number": None,
        "parent": parent,
        "period_end": span[1],
        "period_start": span[0],
        "receipt_number": None,
        "starting_balance": who["balance"],
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {"finalized_at": None, "marked_uncollectible_at": None, "paid_at": None, "voided_at": None},
        "amount_paid": 0,
        "_discounts": discounts or [],
    }
    body["lines"]["url"] = f"/v1/invoices/{body['id']}/lines"
    add_up(body)
    return body


def add_up(body: Body) -> None:
    """Sets every sum from the lines."""
    lines = body["lines"]["data"]
    sums = invoice_lines.discount(lines, body["_discounts"])
    body["subtotal"] = body["subtotal_excluding_tax"] = invoice_lines.total(lines)
    body["total_discount_amounts"] = sums
    body["total"] = body["total_excluding_tax"] = body["subtotal"] - sum(one["amount"] for one in sums)
    due = max(body["total"], 0)
    if body["total"] > 0 and body["starting_balance"] < 0:
        due = max(body["total"] + body["starting_balance"], 0)
    body["amount_due"] = due
    body["amount_remaining"] = due - body["amount_paid"]


def keep(state: State, body: Body) -> None:
    """Puts a new draft on record."""
    parent = body["parent"]["subscription_details"]["subscription"] if body["parent"] else None
    due = body["automatically_finalizes_at"]
    objects.insert(state, "invoice", body, customer=body["customer"], parent=parent, status="draft", due=due)
    events.record(state, "invoice.created", shown(body))


def shown(body: Body) -> Body:
    """An invoice as it is answered."""
    return {name: value for name, value in body.items() if not name.startswith("_")}


def save(state: State, body: Body, due: int | None) -> None:
    """The invoice as it is now; `due`: when the clock has to touch it next."""
    objects.save(state, body, status=body["status"], due=due)


def finalize(state: State, body: Body, now: int, *, pay: bool) -> None:
    """No more changes: usage is asked for the last time, a number is given, the customer's balance is used.

    `pay`: a charge is tried at once. Raises Problem when it is no draft.
    """
    if body["status"] != "draft":
        raise Problem(
            f"This invoice is {body['status']}; only a draft can be finalized.", code="invoice_not_editable", param="id"
        )
    refresh(state, body)
    who = customers.body_of(state, body["customer"])
    body["starting_balance"] = who["balance"]
    add_up(body)
    used = body["total"] - body["amount_due"] if body["total"] > 0 else body["total"]
    body["ending_balance"] = who["balance"] + used
    if used:
        customers.set_balance(state, body["customer"], body["ending_balance"])
    finals = [one for one in objects.find(state, "invoice", customer=body["customer"]) if one["number"] is not None]
    body["number"] = f"{body['customer'][-8:].upper()}-{len(finals) + 1:04d}"
    body["hosted_invoice_url"] = f"https://invoice.local.invalid/{body['id']}"
    body["invoice_pdf"] = f"https://invoice.local.invalid/{body['id']}/pdf"
    body["status_transitions"]["finalized_at"] = now
    body["automatically_finalizes_at"] = None
    body["status"] = "open"
    save(state, body, None)
    events.record(state, "invoice.finalized", shown(body))
    if body["amount_due"] == 0:
        settled(state, body, now)
    elif pay and body["collection_method"] == "charge_automatically":
        charge(state, body, now)


def refresh(state: State, body: Body) -> None:
    """Metered lines as the meters show them now."""
    lines = body["lines"]["data"]
    for place, line in enumerate(lines):
        details = line["parent"]["subscription_item_details"]
        if details is None or details["proration"]:
            continue
        price = objects.get(state, "price", line["pricing"]["price_details"]["price"])
        if price["recurring"] is not None and price["recurring"]["usage_type"] == "metered":
            item = {"id": details["subscription_item"], "subscription": details["subscription"], "price": price}
            span = (line["period"]["start"], line["period"]["end"])
            lines[place] = {**invoice_lines.in_arrears(state, item, body["customer"], span), "id": line["id"]}


def charge(state: State, body: Body, now: int, method: str | None = None) -> bool:
    """Tries to take the money; whether it came. A failure is tried again by itself some days later."""
    method = method or method_of(state, body)
    body["attempted"] = True
    body["attempt_count"] += 1
    if method is not None and payment_methods.charges(state, method):
        body["amount_paid"] = body["amount_due"]
        settled(state, body, now)
        return True
    tries = body["attempt_count"] - 1
    body["next_payment_attempt"] = now + RETRY_S[tries] if tries < len(RETRY_S) and body["auto_advance"] else None
    save(state, body, body["next_payment_attempt"])
    events.record(state, "invoice.payment_failed", shown(body))
    subscription_state.follow(state, body, now)
    return False


def settled(state: State, body: Body, now: int) -> None:
    """Nothing is owed any more."""
    body["amount_remaining"] = 0
    body["next_payment_attempt"] = None
    body["status"] = "paid"
    body["status_transitions"]["paid_at"] = now
    save(state, body, None)
    events.record(state, "invoice.paid", shown(body))
    subscription_state.follow(state, body, now)


def method_of(state: State, body: Body) -> str | None:
    """What is charged: the invoice's own method, its subscription's, else the customer's default."""
    if body["default_payment_method"]:
        return str(body["default_payment_method"])
    if body["parent"]:
        subscription = objects.get(state, "subscription", body["parent"]["subscription_details"]["subscription"])
        if subscription["default_payment_method"]:
            return str(subscription["default_payment_method"])
    default = customers.body_of(state, body["customer"])["invoice_settings"]["default_payment_method"]
    return str(default) if default else None


def end(state: State, body: Body, now: int, status: str) -> None:
    """Void or uncollectible: the invoice is not going to be paid."""
    body["status"] = status
    body["next_payment_attempt"] = None
    body["status_transitions"]["voided_at" if status == "void" else "marked_uncollectible_at"] = now
    if status == "void":
        body["amount_remaining"] = 0
    save(state, body, None)
    events.record(state, "invoice.voided" if status == "void" else "invoice.marked_uncollectible", shown(body))


def fall_due(state: State, identifier: str, due: int) -> None:
    """The clock reached a draft's hour, or the next try of a payment."""
    body = objects.get(state, "invoice", identifier)
    if body["status"] == "draft":
        finalize(state, body, due, pay=True)
    elif body["status"] == "open":
        charge(state, body, due)
    else:
        objects.save(state, body, due=None)


def take_pending(state: State, customer: str, currency: str, invoice: str | None, subscription: str | None) -> list[Body]:
    """Lines of the customer's pending items, which then belong to `invoice`; with None they only are looked at."""
    return [
        invoice_lines.of_invoice_item(item)
        for item in invoice_items.pending(state, customer, currency, subscription, taken_by=invoice)
    ]
