"""The endpoints of subscriptions and their items."""

from __future__ import annotations

from deploy.embedded.local_stripe import customers, events, forms, objects, subscription_changes, subscriptions
from deploy.embedded.local_stripe import subscription_state as kept
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING
from deploy.embedded.local_stripe.problems import Answer, Problem
from deploy.embedded.local_stripe.state import State

STATUSES = ("incomplete", "incomplete_expired", "trialing", "active", "past_due", "canceled", "unpaid", "paused", "all", "ended")


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/subscriptions"""
    body = subscriptions.begin(state, params, state.clock.now())
    return Answer(200, _shown(state, body, params))


def retrieve(state: State, params: forms.Params, subscription: str) -> Answer:
    """GET /v1/subscriptions/{id}"""
    forms.only(params, ())
    return Answer(200, _shown(state, objects.get(state, "subscription", subscription), params))


def update(state: State, params: forms.Params, subscription: str) -> Answer:
    """POST /v1/subscriptions/{id}"""
    body = objects.get(state, "subscription", subscription)
    subscription_changes.change(state, body, _without_expand(params), state.clock.now())
    return Answer(200, _shown(state, objects.get(state, "subscription", subscription), params))


def cancel(state: State, params: forms.Params, subscription: str) -> Answer:
    """DELETE /v1/subscriptions/{id}: at once."""
    forms.only(params, ("invoice_now", "prorate", "cancellation_details"))
    body = objects.get(state, "subscription", subscription)
    if body["status"] in kept.OVER:
        raise Problem(f"No such subscription: '{subscription}'", status=404, code="resource_missing", param="id")
    invoice_now, prorate = forms.flag_of(params, "invoice_now") is True, forms.flag_of(params, "prorate") is True
    subscriptions.cancel(state, body, state.clock.now(), invoice_now=invoice_now, prorate=prorate)
    return Answer(200, _shown(state, objects.get(state, "subscription", subscription), params))


def resume(state: State, params: forms.Params, subscription: str) -> Answer:
    """POST /v1/subscriptions/{id}/resume"""
    forms.only(params, ("billing_cycle_anchor", "proration_behavior"))
    subscriptions.resume(state, objects.get(state, "subscription", subscription), state.clock.now())
    return Answer(200, _shown(state, objects.get(state, "subscription", subscription), params))


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/subscriptions; without `status` those that are not over."""
    forms.only(params, (*PAGING, "customer", "status", "price"))
    status = forms.choice_of(params, "status", STATUSES)
    customer = forms.text_of(params, "customer")
    exact = None if status in (None, "all", "ended") else status
    page = objects.page(state, "subscription", "/v1/subscriptions", params, customer=customer, status=exact)
    data = [kept.whole(state, body) for body in page["data"]]
    if status is None:
        data = [body for body in data if body["status"] not in kept.OVER]
    elif status == "ended":
        data = [body for body in data if body["status"] in kept.OVER]
    return Answer(200, {**page, "data": data})


def list_items(state: State, params: forms.Params) -> Answer:
    """GET /v1/subscription_items?subscription="""
    forms.only(params, (*PAGING, "subscription"))
    body = objects.get(state, "subscription", forms.required_text(params, "subscription"), "subscription", 400)
    page = objects.page(state, "subscription_item", "/v1/subscription_items", params, parent=body["id"])
    return Answer(200, {**page, "data": [kept.shown_item(item, body) for item in page["data"]]})


def retrieve_item(state: State, params: forms.Params, item: str) -> Answer:
    """GET /v1/subscription_items/{id}"""
    forms.only(params, ())
    return Answer(200, _shown_item(state, item))


def create_item(state: State, params: forms.Params) -> Answer:
    """POST /v1/subscription_items"""
    subscription = forms.required_text(params, "subscription")
    body = objects.get(state, "subscription", subscription, "subscription", 400)
    known = {item["id"] for item in kept.items_of(state, subscription)}
    row, more = _row(params, ("price", "quantity", "metadata"))
    subscription_changes.change(state, body, {"items": {"0": row}, **more}, state.clock.now())
    (made,) = [item["id"] for item in kept.items_of(state, subscription) if item["id"] not in known]
    return Answer(200, _shown_item(state, made))


def update_item(state: State, params: forms.Params, item: str) -> Answer:
    """POST /v1/subscription_items/{id}"""
    body = objects.get(state, "subscription", objects.get(state, "subscription_item", item)["subscription"])
    row, more = _row(params, ("price", "quantity", "metadata"))
    subscription_changes.change(state, body, {"items": {"0": {"id": item, **row}}, **more}, state.clock.now())
    return Answer(200, _shown_item(state, item))


def delete_item(state: State, params: forms.Params, item: str) -> Answer:
    """DELETE /v1/subscription_items/{id}; the last one stays."""
    body = objects.get(state, "subscription", objects.get(state, "subscription_item", item)["subscription"])
    _, more = _row(params, ())
    subscription_changes.change(state, body, {"items": {"0": {"id": item, "deleted": "true"}}, **more}, state.clock.now())
    return Answer(200, {"id": item, "object": "subscription_item", "deleted": True})


def delete_customer(state: State, params: forms.Params, customer: str) -> Answer:
    """DELETE /v1/customers/{id}: the customer and, at once, its subscriptions."""
    forms.only(params, ())
    body = customers.mark_deleted(state, customer)
    subscriptions.end_all_of(state, customer)
    events.record(state, "customer.deleted", body)
    return Answer(200, customers.tombstone(customer))


def _shown(state: State, body: Body, params: forms.Params) -> Body:
    answer = kept.whole(state, body)
    if forms.expands(params, "latest_invoice") and body["latest_invoice"]:
        found = objects.get(state, "invoice", body["latest_invoice"])
        answer["latest_invoice"] = {name: value for name, value in found.items() if not name.startswith("_")}
    return answer


def _shown_item(state: State, item: str) -> Body:
    found = objects.get(state, "subscription_item", item)
    return kept.shown_item(found, objects.get(state, "subscription", found["subscription"]))


def _row(params: forms.Params, names: tuple[str, ...]) -> tuple[forms.Params, forms.Params]:
    """What is said of the item, and what is said of the change."""
    change = ("proration_behavior", "proration_date", "payment_behavior", "off_session")
    forms.only(params, ("subscription", *names, *change))
    return (
        {name: params[name] for name in names if name in params},
        {name: params[name] for name in change if name in params},
    )


def _without_expand(params: forms.Params) -> forms.Params:
    return {name: value for name, value in params.items() if name != "expand"}
