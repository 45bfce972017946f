"""Subscriptions on record: their items, how they are answered, when the clock touches them, and what an invoice does to them."""

from __future__ import annotations

from deploy.embedded.local_stripe import events, objects
from deploy.embedded.local_stripe.catalog import shown as shown_price
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.state import State

INCOMPLETE_S = 23 * 3_600
"""How long a first payment may be outstanding."""
WARNED_S = 3 * 86_400
"""How long before its end a trial is announced."""
OVER = ("canceled", "incomplete_expired")


def items_of(state: State, subscription: str) -> list[Body]:
    """The items, oldest first."""
    return objects.find(state, "subscription_item", parent=subscription)


def shown_item(item: Body, body: Body) -> Body:
    """An item as it is answered."""
    return {
        **item,
        "current_period_end": body["_period"][1],
        "current_period_start": body["_period"][0],
        "price": shown_price(item["price"], False),
    }


def whole(state: State, body: Body) -> Body:
    """A subscription as it is answered."""
    items = [shown_item(item, body) for item in items_of(state, body["id"])]
    url = f"/v1/subscription_items?subscription={body['id']}"
    answer = {name: value for name, value in body.items() if not name.startswith("_")}
    return {**answer, "items": {"object": "list", "data": items, "has_more": False, "total_count": len(items), "url": url}}


def due_of(body: Body) -> int | None:
    """When the clock has to touch it next."""
    if body["status"] in (*OVER, "paused"):
        return None
    if body["status"] == "incomplete":
        return int(body["created"]) + INCOMPLETE_S
    moments = [body["_period"][1], body["cancel_at"]]
    if body["status"] == "trialing" and not body["_warned"]:
        moments.append(max(body["trial_end"] - WARNED_S, body["created"]))
    if body["pause_collection"]:
        moments.append(body["pause_collection"]["resumes_at"])
    return min(int(moment) for moment in moments if moment is not None)


def keep(state: State, body: Body) -> None:
    """Puts a new subscription on record."""
    objects.insert(state, "subscription", body, customer=body["customer"], status=body["status"], due=due_of(body))


def save(state: State, body: Body, kind: str | None = "customer.subscription.updated", before: Body | None = None) -> None:
    """The subscription as it is now, and the event that says so."""
    objects.save(state, body, status=body["status"], due=due_of(body))
    if kind is not None:
        events.record(state, kind, whole(state, body), before)


def follow(state: State, invoice: Body, now: int) -> None:
    """What a paid or failed invoice means for its subscription."""
    if not invoice["parent"]:
        return
    body = objects.get(state, "subscription", invoice["parent"]["subscription_details"]["subscription"])
    status = body["status"]
    if invoice["status"] == "paid":
        owed = [
            one
            for one in objects.find(state, "invoice", parent=body["id"], status="open")
            if one["id"] != invoice["id"] and one["attempted"]
        ]
        wanted = "active" if status in ("incomplete", "past_due", "unpaid") and not owed else status
    elif status == "active":
        wanted = "past_due"
    elif status == "past_due" and invoice["next_payment_attempt"] is None and invoice["auto_advance"]:
        wanted = "unpaid"
    else:
        wanted = status
    if wanted != status:
        body["status"] = wanted
        save(state, body, before={"status": status})
