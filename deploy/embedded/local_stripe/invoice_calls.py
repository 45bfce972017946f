"""The endpoints of invoices, and the preview of one that is not made."""

from __future__ import annotations

from deploy.embedded.local_stripe import (
    billing,
    customers,
    discounts,
    forms,
    invoices,
    metadata,
    objects,
    payment_methods,
    subscription_changes,
    subscriptions,
)
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING, list_values
from deploy.embedded.local_stripe.problems import Answer, Problem, missing
from deploy.embedded.local_stripe.state import State

STATUSES = ("draft", "open", "paid", "uncollectible", "void")
COLLECTION = ("charge_automatically", "send_invoice")


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/invoices: a draft of the customer's pending items."""
    forms.only(
        params,
        ("customer", "auto_advance", "collection_method", "days_until_due", "description", "metadata", "discounts", "currency",
         "pending_invoice_items_behavior", "default_payment_method"),
    )  # fmt: skip
    customer = forms.required_text(params, "customer")
    currency = forms.text_of(params, "currency") or customers.body_of(state, customer)["currency"] or "usd"
    now = state.clock.now()
    body = invoices.make(
        state, now, customer, currency.lower(), [], "manual", span=(now, now),
        discounts=discounts.redeemed(state, params, customer, False),
        auto_advance=forms.flag_of(params, "auto_advance") is True,
        collection_method=forms.choice_of(params, "collection_method", COLLECTION) or COLLECTION[0],
        days_until_due=forms.integer_of(params, "days_until_due"),
    )  # fmt: skip
    if forms.choice_of(params, "pending_invoice_items_behavior", ("include", "exclude")) == "include":
        body["lines"]["data"] = invoices.take_pending(state, customer, currency.lower(), body["id"], None)
    body["description"] = forms.text_of(params, "description") or None
    body["metadata"] = metadata.of(params)
    if method := forms.text_of(params, "default_payment_method"):
        body["default_payment_method"] = payment_methods.of_customer(state, customer, method, "default_payment_method")
    invoices.add_up(body)
    invoices.keep(state, body)
    return Answer(200, invoices.shown(body))


def retrieve(state: State, params: forms.Params, invoice: str) -> Answer:
    """GET /v1/invoices/{id}; a draft shows usage as it is now."""
    forms.only(params, ())
    return Answer(200, invoices.shown(_body(state, invoice)))


def update(state: State, params: forms.Params, invoice: str) -> Answer:
    """POST /v1/invoices/{id}"""
    forms.only(
        params, ("auto_advance", "description", "metadata", "default_payment_method", "days_until_due", "collection_method")
    )
    body = _body(state, invoice)
    if (advance := forms.flag_of(params, "auto_advance")) is not None:
        body["auto_advance"] = advance
        if body["status"] == "draft":
            body["automatically_finalizes_at"] = state.clock.now() + invoices.DRAFT_S if advance else None
    if "description" in params:
        body["description"] = forms.text_of(params, "description") or None
    if method := forms.text_of(params, "default_payment_method"):
        body["default_payment_method"] = payment_methods.of_customer(state, body["customer"], method, "default_payment_method")
    metadata.change(body, params)
    due = body["automatically_finalizes_at"] if body["status"] == "draft" else body["next_payment_attempt"]
    invoices.save(state, body, due)
    return Answer(200, invoices.shown(body))


def delete(state: State, params: forms.Params, invoice: str) -> Answer:
    """DELETE /v1/invoices/{id}: a draft that no subscription made."""
    forms.only(params, ())
    body = _body(state, invoice)
    if body["status"] != "draft" or body["parent"] is not None:
        raise Problem("Only a draft that was made by hand can be deleted.", code="invoice_not_editable", param="id")
    objects.remove(state, invoice)
    return Answer(200, {"id": invoice, "object": "invoice", "deleted": True})


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/invoices; `customer`, `subscription` and `status` filter."""
    forms.only(params, (*PAGING, "customer", "subscription", "status"))
    page = objects.page(
        state, "invoice", "/v1/invoices", params,
        customer=forms.text_of(params, "customer"),
        parent=forms.text_of(params, "subscription"),
        status=forms.choice_of(params, "status", STATUSES),
    )  # fmt: skip
    return Answer(200, {**page, "data": [invoices.shown(body) for body in page["data"]]})


def lines(state: State, params: forms.Params, invoice: str) -> Answer:
    """GET /v1/invoices/{id}/lines"""
    forms.only(params, PAGING)
    found = _body(state, invoice)["lines"]["data"]
    return Answer(200, list_values(f"/v1/invoices/{invoice}/lines", "line item", params, found))


def finalize(state: State, params: forms.Params, invoice: str) -> Answer:
    """POST /v1/invoices/{id}/finalize; `auto_advance` charges at once."""
    forms.only(params, ("auto_advance",))
    body = _body(state, invoice)
    advance = forms.flag_of(params, "auto_advance")
    invoices.finalize(state, body, state.clock.now(), pay=body["auto_advance"] if advance is None else advance)
    return Answer(200, invoices.shown(body))


def pay(state: State, params: forms.Params, invoice: str) -> Answer:
    """POST /v1/invoices/{id}/pay; `paid_out_of_band` believes that the money came otherwise."""
    forms.only(params, ("payment_method", "paid_out_of_band", "off_session"))
    body = _body(state, invoice)
    now = state.clock.now()
    if body["status"] == "draft":
        invoices.finalize(state, body, now, pay=False)
    if body["status"] == "paid":
        raise Problem("Invoice is already paid.", code="invoice_already_paid", param="id")
    if body["status"] == "void":
        raise Problem("A void invoice cannot be paid.", code="invoice_not_payable", param="id")
    if forms.flag_of(params, "paid_out_of_band"):
        body["amount_paid"] = body["amount_due"]
        invoices.settled(state, body, now)
        return Answer(200, invoices.shown(body))
    given = forms.text_of(params, "payment_method")
    method = payment_methods.of_customer(state, body["customer"], given, "payment_method") if given else None
    if method is None and invoices.method_of(state, body) is None:
        raise Problem("There is no payment method to charge.", code="invoice_payment_intent_requires_action", param="id")
    if invoices.charge(state, body, now, method):
        return Answer(200, invoices.shown(body))
    # The failed try stays on record, as it does for Stripe: this is an answer, and nothing is rolled back.
    refusal = Problem("Your card was declined.", status=402, code="card_declined", kind="card_error")
    return refusal.answer()


def send(state: State, params: forms.Params, invoice: str) -> Answer:
    """POST /v1/invoices/{id}/send: final, and as good as sent; no mail leaves this machine."""
    forms.only(params, ())
    body = _body(state, invoice)
    if body["status"] == "draft":
        invoices.finalize(state, body, state.clock.now(), pay=False)
    return Answer(200, invoices.shown(body))


def void(state: State, params: forms.Params, invoice: str) -> Answer:
    """POST /v1/invoices/{id}/void"""
    forms.only(params, ())
    return _ended(state, invoice, ("open", "uncollectible"), "void")


def mark_uncollectible(state: State, params: forms.Params, invoice: str) -> Answer:
    """POST /v1/invoices/{id}/mark_uncollectible"""
    forms.only(params, ())
    return _ended(state, invoice, ("open",), "uncollectible")


def preview(state: State, params: forms.Params) -> Answer:
    """POST /v1/invoices/create_preview: what would be billed, after a change too; everything is done, read, and undone."""
    forms.only(params, ("customer", "subscription", "subscription_details", "discounts", "currency", "preview_mode"))
    state.database.execute("SAVEPOINT preview")
    try:
        body = _previewed(state, params)
    finally:
        state.database.execute("ROLLBACK TO preview")
        state.database.execute("RELEASE preview")
    body["id"] = new_id("upcoming_in", 24)
    return Answer(200, invoices.shown(body))


def _previewed(state: State, params: forms.Params) -> Body:
    now = state.clock.now()
    identifier = forms.text_of(params, "subscription")
    details = dict(forms.inner_of(params, "subscription_details"))
    if not identifier:
        customer = forms.required_text(params, "customer")
        if "items" not in details:
            raise missing("subscription_details[items]")
        wanted: forms.Params = {"customer": customer, "payment_behavior": "default_incomplete", **details}
        if "discounts" in params:
            wanted["discounts"] = params["discounts"]
        made = subscriptions.begin(state, wanted, now)
        return objects.get(state, "invoice", made["latest_invoice"])
    body = objects.get(state, "subscription", identifier, "subscription", 400)
    if forms.flag_of(details, "cancel_now"):
        prorate = forms.text_of(details, "proration_behavior") != "none"
        subscriptions.cancel(state, body, now, invoice_now=True, prorate=prorate)
        return objects.get(state, "invoice", body["latest_invoice"])
    details.pop("cancel_now", None)
    before = body["latest_invoice"]
    if details:
        subscription_changes.change(state, body, details, now)
        body = objects.get(state, "subscription", identifier)
        if body["latest_invoice"] != before:
            return objects.get(state, "invoice", body["latest_invoice"])
    return billing.upcoming(state, body, now)


def _body(state: State, invoice: str) -> Body:
    body = objects.get(state, "invoice", invoice)
    if body["status"] == "draft":
        invoices.refresh(state, body)
        invoices.add_up(body)
    return body


def _ended(state: State, invoice: str, allowed: tuple[str, ...], status: str) -> Answer:
    body = _body(state, invoice)
    if body["status"] not in allowed:
        raise Problem(f"An invoice that is {body['status']} cannot become {status}.", code="invoice_not_editable", param="id")
    invoices.end(state, body, state.clock.now(), status)
    return Answer(200, invoices.shown(body))
