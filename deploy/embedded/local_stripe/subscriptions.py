"""The life of a subscription: created, renewed, changed, paused, ended; by requests and by the clock."""

from __future__ import annotations

from deploy.embedded.local_stripe import billing, customers, cycles, discounts, forms, invoices, objects
from deploy.embedded.local_stripe import metadata as metadata_of
from deploy.embedded.local_stripe import subscription_params as wanted
from deploy.embedded.local_stripe import subscription_state as kept
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.problems import Problem, wrong
from deploy.embedded.local_stripe.state import State

_CREATE = (
    "customer", "items", "currency", "billing_cycle_anchor", "billing_cycle_anchor_config",
    "trial_end", "trial_period_days", "trial_settings",
    "cancel_at_period_end", "cancel_at", "collection_method", "days_until_due", "default_payment_method", "metadata",
    "proration_behavior", "payment_behavior", "discounts", "description", "off_session",
)  # fmt: skip
PAYMENT_BEHAVIORS = ("allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete")


def begin(state: State, params: forms.Params, now: int) -> Body:
    """A new subscription on record with its first invoice, charged. Raises Problem for what cannot be."""
    forms.only(params, _CREATE)
    customer = forms.required_text(params, "customer")
    who = customers.body_of(state, customer)
    identifier = new_id("sub", 24)
    rows = forms.rows_of(params, "items")
    items = [wanted.new_item(state, row, identifier, now, f"items[{place}]") for place, row in enumerate(rows)]
    currency, interval, count = wanted.together(items, forms.text_of(params, "currency"))
    if who["currency"] not in (None, currency):
        raise Problem(f"The customer's currency is {who['currency']}; one customer has one currency here.", param="customer")
    trial_end = wanted.trial_end_of(params, now)
    anchor = forms.integer_of(params, "billing_cycle_anchor")
    if anchor is not None and not now <= anchor <= cycles.nth(now, interval, count, 1):
        raise wrong("billing_cycle_anchor", "want a time ahead, at most one interval")
    method = forms.text_of(params, "default_payment_method")
    if method and objects.get(state, "payment_method", method, "default_payment_method", 400)["customer"] != customer:
        raise Problem("The payment method is not attached to the customer.", param="default_payment_method")
    start = trial_end or now
    config, day = wanted.anchor_config_of(params), None
    if config is not None:
        day = int(config["day_of_month"])
        anchor = cycles.first_on(day, wanted.time_s_of(config), start, config["month"])
    anchor = anchor if anchor is not None and anchor >= start else start
    first = not objects.find(state, "subscription", customer=customer)
    given = discounts.redeemed(state, params, customer, first)
    for one in given:
        if one["source"]["coupon"]["duration"] == "repeating":
            one["end"] = cycles.months_on(now, one["source"]["coupon"]["duration_in_months"])
    behavior = forms.choice_of(params, "payment_behavior", PAYMENT_BEHAVIORS) or "allow_incomplete"
    body: Body = {
        "id": identifier,
        "object": "subscription",
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": anchor,
        "billing_cycle_anchor_config": config,
        "billing_mode": {"flexible": None, "type": "classic"},
        "cancel_at": forms.integer_of(params, "cancel_at"),
        "cancel_at_period_end": forms.flag_of(params, "cancel_at_period_end") is True,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": forms.choice_of(params, "collection_method", ("charge_automatically", "send_invoice"))
        or "charge_automatically",
        "created": now,
        "currency": currency,
        "customer": customer,
        "days_until_due": forms.integer_of(params, "days_until_due"),
        "default_payment_method": method or None,
        "description": forms.text_of(params, "description") or None,
        "discounts": [one["id"] for one in given],
        "ended_at": None,
        "latest_invoice": None,
        "livemode": False,
        "metadata": metadata_of.of(params),
        "next_pending_invoice_item_invoice": None,
        "pause_collection": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": now,
        "status": "trialing" if trial_end else "active",
        "trial_end": trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": wanted.missing_method_of(params)}},
        "trial_start": now if trial_end else None,
        "_discounts": given,
        "_interval": interval,
        "_interval_count": count,
        "_period": [now, trial_end or cycles.after(anchor, interval, count, now, day)],
        "_warned": False,
    }
    if body["cancel_at"] is not None and body["cancel_at"] <= now:
        raise wrong("cancel_at", "want a time ahead")
    kept.keep(state, body)
    for item in items:
        objects.insert(state, "subscription_item", item, customer=customer, parent=identifier)
    lines = billing.first_lines(state, body, items)
    if forms.text_of(params, "proration_behavior") == "none" and billing.full_period(body) != billing.period(body):
        lines = []
    invoice = billing.invoice(state, body, lines, "subscription_create", now, billing.period(body))
    _first_payment(state, body, invoice, behavior, now)
    if who["currency"] is None:
        customers.set_currency(state, customer, currency)
    return objects.get(state, "subscription", identifier)


def _first_payment(state: State, body: Body, invoice: Body, behavior: str, now: int) -> None:
    """Charges the first invoice; what fails leaves the subscription incomplete, or nothing at all, as was asked for."""
    if body["collection_method"] == "send_invoice":
        kept.save(state, body, "customer.subscription.created")
        return
    owed = invoice["amount_due"] > 0
    if owed and behavior != "default_incomplete" and invoices.method_of(state, invoice) is None:
        raise Problem(
            "This customer has no attached payment source or default payment method.", code="resource_missing", param="customer"
        )
    if owed:
        body["status"] = "incomplete"
    kept.save(state, body, "customer.subscription.created")
    invoices.finalize(state, invoice, now, pay=behavior != "default_incomplete")
    if owed and behavior == "error_if_incomplete" and invoice["status"] != "paid":
        raise Problem("Your card was declined.", status=402, code="card_declined", kind="card_error")


def renew(state: State, body: Body, at: int) -> None:
    """The period ended: bills what was used, begins the next one."""
    items = kept.items_of(state, body["id"])
    ended = billing.period(body)
    trial = body["status"] == "trialing"
    before = {"status": body["status"]}
    if trial and not _may_go_on(state, body, at):
        return
    begun = (ended[1], billing.next_end(body, ended[1]))
    body["_period"] = list(begun)
    body["status"] = "active" if trial else body["status"]
    lines = billing.cycle_lines(state, body, items, None if trial else ended, begun)
    if trial and billing.full_period(body) != begun:
        # The trial ended inside a cycle: its seats cost a part.
        lines = billing.first_lines(state, body, items)
    billing.invoice(state, body, lines, "subscription_cycle", at, ended)
    kept.save(state, body, before=before)


def _may_go_on(state: State, body: Body, at: int) -> bool:
    """At the end of a trial: whether there is something to charge, or nobody asked. Otherwise it ends or is paused."""
    default = customers.body_of(state, body["customer"])["invoice_settings"]["default_payment_method"]
    behavior = body["trial_settings"]["end_behavior"]["missing_payment_method"]
    if default or body["default_payment_method"] or behavior == "create_invoice":
        return True
    if behavior == "cancel":
        cancel(state, body, at, invoice_now=False, prorate=False)
        return False
    body["status"] = "paused"
    kept.save(state, body, "customer.subscription.paused", {"status": "trialing"})
    return False


def cancel(state: State, body: Body, at: int, *, invoice_now: bool, prorate: bool) -> None:
    """The subscription ends; `invoice_now`: usage so far and what waits is billed; `prorate`: unused seats come back."""
    before = {"status": body["status"]}
    items = kept.items_of(state, body["id"])
    if prorate:
        from_items = [made for item in items for made in billing.prorate(state, body, item, None, at, at)]
        billing.keep_pending(state, from_items)
    if invoice_now and body["status"] in ("active", "past_due"):
        usage = billing.cycle_lines(state, body, items, (billing.period(body)[0], at), None)
        if usage or prorate:
            billing.invoice(state, body, usage, "subscription_cycle", at, (billing.period(body)[0], at))
    body["status"] = "canceled"
    body["canceled_at"] = body["canceled_at"] or at
    body["ended_at"] = at
    kept.save(state, body, "customer.subscription.deleted", before)


def fall_due(state: State, identifier: str, due: int) -> None:
    """The clock reached something of this subscription."""
    body = objects.get(state, "subscription", identifier)
    if body["status"] == "incomplete":
        body["status"], body["ended_at"] = "incomplete_expired", due
        first = objects.get(state, "invoice", body["latest_invoice"])
        if first["status"] == "open":
            invoices.end(state, first, due, "void")
        kept.save(state, body, before={"status": "incomplete"})
    elif body["cancel_at"] == due or (body["cancel_at_period_end"] and body["_period"][1] == due):
        cancel(state, body, due, invoice_now=True, prorate=False)
    elif body["_period"][1] == due:
        renew(state, body, due)
    elif body["pause_collection"] and body["pause_collection"]["resumes_at"] == due:
        before = {"pause_collection": body["pause_collection"]}
        body["pause_collection"] = None
        kept.save(state, body, before=before)
    elif body["status"] == "trialing" and not body["_warned"]:
        body["_warned"] = True
        kept.save(state, body, "customer.subscription.trial_will_end")
    else:
        raise AssertionError(f"{identifier} was due at {due}, and nothing is to be done")


def end_all_of(state: State, customer: str) -> None:
    """The customer was deleted."""
    now = state.clock.now()
    for body in objects.find(state, "subscription", customer=customer):
        if body["status"] not in kept.OVER:
            body["status"], body["canceled_at"], body["ended_at"] = "canceled", now, now
            kept.save(state, body, "customer.subscription.deleted")


def resume(state: State, body: Body, now: int) -> None:
    """A subscription that its trial's end paused goes on with a period from now."""
    if body["status"] != "paused":
        raise Problem("Only a paused subscription can be resumed.", param="id")
    body["billing_cycle_anchor"], body["billing_cycle_anchor_config"] = now, None
    body["_period"] = [now, billing.next_end(body, now)]
    body["status"] = "active"
    lines = billing.cycle_lines(state, body, kept.items_of(state, body["id"]), None, billing.period(body))
    invoice = billing.invoice(state, body, lines, "subscription_update", now, billing.period(body))
    kept.save(state, body, "customer.subscription.resumed", {"status": "paused"})
    invoices.finalize(state, invoice, now, pay=True)
