"""Changing a subscription: items, cycle, trial, pause, cancellation; and what a change costs for the rest of the period."""

from __future__ import annotations

from deploy.embedded.local_stripe import billing, cycles, discounts, forms, invoices, metadata, objects
from deploy.embedded.local_stripe import subscription_params as wanted
from deploy.embedded.local_stripe import subscription_state as kept
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.problems import Problem, wrong
from deploy.embedded.local_stripe.state import State

PRORATIONS = ("create_prorations", "always_invoice", "none")
FIELDS = (
    "items", "proration_behavior", "proration_date", "billing_cycle_anchor", "cancel_at_period_end", "cancel_at",
    "default_payment_method", "metadata", "pause_collection", "trial_end", "discounts", "description", "collection_method",
    "days_until_due", "payment_behavior", "off_session",
)  # fmt: skip


def change(state: State, body: Body, params: forms.Params, now: int) -> None:
    """Does all of it, or raises Problem."""
    forms.only(params, FIELDS)
    if body["status"] in kept.OVER:
        raise Problem(f"A {body['status']} subscription cannot be changed.", code="resource_missing", param="id")
    before = kept.whole(state, body)
    behavior = forms.choice_of(params, "proration_behavior", PRORATIONS) or "create_prorations"
    at = forms.integer_of(params, "proration_date") or now
    if not body["_period"][0] <= at <= body["_period"][1]:
        raise wrong("proration_date", "want a time within the running period")
    _fields(state, body, params, now)
    anew = forms.choice_of(params, "billing_cycle_anchor", ("now", "unchanged")) == "now"
    trial_over = _trial(body, params, now)
    changed, prorations = _items(state, body, params, now, at)
    interval = wanted.together(kept.items_of(state, body["id"]), body["currency"])[1:]
    if interval != (body["_interval"], body["_interval_count"]):
        body["_interval"], body["_interval_count"] = interval
        anew = True
    if behavior == "none":
        prorations = []
    if anew or trial_over:
        _begin_anew(state, body, prorations, now, trial_over, behavior)
    else:
        billing.keep_pending(state, prorations)
        if behavior == "always_invoice" and changed:
            invoice = billing.invoice(state, body, [], "subscription_update", now, billing.period(body))
            kept.save(state, body, before=before)
            invoices.finalize(state, invoice, now, pay=True)
            return
        kept.save(state, body, before=before)
        return
    kept.save(state, body, before=before)
    invoices.finalize(state, objects.get(state, "invoice", body["latest_invoice"]), now, pay=True)


def change_item(state: State, item: Body, row: forms.Params) -> Body:
    """An item with another price or quantity; not on record yet."""
    forms.only(row, ("id", "price", "quantity", "deleted", "metadata"))
    changed = dict(item)
    if forms.text_of(row, "price"):
        changed["price"] = wanted.subscribable(state, row, "items")
    if "quantity" in row or "price" in row:
        quantity = wanted.quantity_of(row, changed["price"], "items")
        if "quantity" not in row and item["quantity"] is not None and quantity is not None:
            quantity = item["quantity"]
        changed["quantity"] = quantity
    metadata.change(changed, row)
    return changed


def _fields(state: State, body: Body, params: forms.Params, now: int) -> None:
    if (at_end := forms.flag_of(params, "cancel_at_period_end")) is not None:
        body["cancel_at_period_end"] = at_end
        body["canceled_at"] = now if at_end else None
        body["cancel_at"] = None
    if "cancel_at" in params:
        body["cancel_at"] = forms.integer_of(params, "cancel_at") if params["cancel_at"] != "" else None
        if body["cancel_at"] is not None and body["cancel_at"] <= now:
            raise wrong("cancel_at", "want a time ahead")
        body["canceled_at"] = now if body["cancel_at"] is not None else None
    method = forms.text_of(params, "default_payment_method")
    if method:
        if objects.get(state, "payment_method", method, "default_payment_method", 400)["customer"] != body["customer"]:
            raise Problem("The payment method is not attached to the customer.", param="default_payment_method")
        body["default_payment_method"] = method
    if "description" in params:
        body["description"] = forms.text_of(params, "description") or None
    if (collection := forms.choice_of(params, "collection_method", ("charge_automatically", "send_invoice"))) is not None:
        body["collection_method"] = collection
    if "days_until_due" in params:
        body["days_until_due"] = forms.integer_of(params, "days_until_due")
    if "pause_collection" in params:
        body["pause_collection"] = wanted.pause_of(params)
    if "discounts" in params:
        given = discounts.redeemed(state, params, body["customer"], False)
        for one in given:
            if one["source"]["coupon"]["duration"] == "repeating":
                one["end"] = cycles.months_on(now, one["source"]["coupon"]["duration_in_months"])
        body["_discounts"], body["discounts"] = given, [one["id"] for one in given]
    metadata.change(body, params)


def _trial(body: Body, params: forms.Params, now: int) -> bool:
    """Moves the trial's end; whether the trial is over by this."""
    text = forms.text_of(params, "trial_end")
    if not text:
        return False
    if text == "now":
        over = bool(body["status"] == "trialing")
        if over:
            body["trial_end"] = now
        return over
    end = wanted.trial_end_of(params, now)
    body["status"], body["trial_end"] = "trialing", end
    body["trial_start"] = body["trial_start"] or now
    body["billing_cycle_anchor"], body["billing_cycle_anchor_config"] = end, None
    body["_period"] = [body["_period"][0], end]
    body["_warned"] = False
    return False


def _items(state: State, body: Body, params: forms.Params, now: int, at: int) -> tuple[bool, list[Body]]:
    """Changes the items on record; whether there was a change, and the prorations of it."""
    prorations: list[Body] = []
    rows = forms.rows_of(params, "items")
    items = {item["id"]: item for item in kept.items_of(state, body["id"])}
    for place, row in enumerate(rows):
        identifier = forms.text_of(row, "id")
        if not identifier:
            made = wanted.new_item(state, row, body["id"], now, f"items[{place}]")
            objects.insert(state, "subscription_item", made, customer=body["customer"], parent=body["id"])
            prorations += billing.prorate(state, body, None, made, now, at)
            continue
        old = items.get(identifier)
        if old is None:
            raise Problem(f"No such subscription_item: '{identifier}'", code="resource_missing", param=f"items[{place}][id]")
        if forms.flag_of(row, "deleted"):
            objects.remove(state, identifier)
            prorations += billing.prorate(state, body, old, None, now, at)
            continue
        changed = change_item(state, old, row)
        objects.save(state, changed)
        if (old["price"]["id"], old["quantity"]) != (changed["price"]["id"], changed["quantity"]):
            prorations += billing.prorate(state, body, old, changed, now, at)
    return bool(rows), prorations


def _begin_anew(state: State, body: Body, prorations: list[Body], now: int, trial_over: bool, behavior: str) -> None:
    """A period from now on, billed at once: its seats, what was used before, and what unused seats give back."""
    ended = (body["_period"][0], now)
    items = kept.items_of(state, body["id"])
    if behavior != "none" and not trial_over:
        changed = {item["price"]["id"] for item in items}
        back = [one for one in prorations if one["amount"] < 0]
        known = {one["price_body"]["id"] for one in back}
        for item in items:
            if item["price"]["id"] in changed - known and not prorations:
                back += billing.prorate(state, body, item, None, now, now)
        billing.keep_pending(state, back)
    body["billing_cycle_anchor"], body["billing_cycle_anchor_config"] = now, None
    body["status"] = "active" if trial_over else body["status"]
    body["_period"] = [now, billing.next_end(body, now)]
    lines = billing.cycle_lines(state, body, items, None if trial_over else ended, billing.period(body))
    billing.invoice(state, body, lines, "subscription_update", now, ended)
