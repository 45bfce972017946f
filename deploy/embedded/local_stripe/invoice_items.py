"""Invoice items: single amounts that wait for the customer's next invoice, prorations among them."""

from __future__ import annotations

from deploy.embedded.local_stripe import amounts, customers, forms, metadata, objects
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING
from deploy.embedded.local_stripe.problems import Answer, Problem, wrong
from deploy.embedded.local_stripe.state import State

AMOUNT_MAX = 99_999_999


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/invoiceitems: an amount, or a one-time price and a quantity."""
    forms.only(
        params,
        (
            "customer",
            "amount",
            "currency",
            "description",
            "pricing",
            "quantity",
            "subscription",
            "metadata",
            "discountable",
        ),
    )
    customer = forms.required_text(params, "customer")
    customers.body_of(state, customer)
    price_id = forms.map_of(params, "pricing").get("price")
    quantity = forms.integer_of(params, "quantity")
    price: Body | None = None
    if price_id:
        price = objects.get(state, "price", price_id, "pricing[price]", 400)
        if price["type"] != "one_time":
            raise wrong("pricing[price]", "want a one-time price")
        amount = amounts.rounded(amounts.cost(price, 1 if quantity is None else quantity))
        currency = str(price["currency"])
    else:
        amount, currency = forms.required_integer(params, "amount"), forms.required_text(params, "currency").lower()
    if abs(amount) > AMOUNT_MAX:
        raise wrong("amount", f"want at most {AMOUNT_MAX}")
    now = state.clock.now()
    body = made(
        now, customer, amount, currency, forms.text_of(params, "description"), (now, now),
        price=price, quantity=1 if quantity is None else quantity, subscription=forms.text_of(params, "subscription"),
        proration=False,
    )  # fmt: skip
    body["metadata"] = metadata.of(params)
    body["discountable"] = forms.flag_of(params, "discountable") is not False
    keep(state, body)
    return Answer(200, shown(body))


def retrieve(state: State, params: forms.Params, item: str) -> Answer:
    """GET /v1/invoiceitems/{id}"""
    forms.only(params, ())
    return Answer(200, shown(objects.get(state, "invoiceitem", item)))


def delete(state: State, params: forms.Params, item: str) -> Answer:
    """DELETE /v1/invoiceitems/{id}, while no invoice has it."""
    forms.only(params, ())
    body = objects.get(state, "invoiceitem", item)
    if body["invoice"] is not None:
        raise Problem("An invoice has this item already.", param="id")
    objects.remove(state, item)
    return Answer(200, {"id": item, "object": "invoiceitem", "deleted": True})


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/invoiceitems; `customer`, `invoice` and `pending` filter."""
    forms.only(params, (*PAGING, "customer", "invoice", "pending"))
    pending = forms.flag_of(params, "pending")
    status = None if pending is None else ("pending" if pending else "taken")
    page = objects.page(
        state, "invoiceitem", "/v1/invoiceitems", params,
        customer=forms.text_of(params, "customer"), parent=forms.text_of(params, "invoice"), status=status,
    )  # fmt: skip
    return Answer(200, {**page, "data": [shown(one) for one in page["data"]]})


def made(
    now: int,
    customer: str,
    amount: int,
    currency: str,
    description: str | None,
    span: tuple[int, int],
    *,
    price: Body | None,
    quantity: int,
    subscription: str | None,
    proration: bool,
) -> Body:
    """An item that is not on record yet."""
    return {
        "id": new_id("ii", 24),
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer,
        "date": now,
        "description": description,
        "discountable": not proration,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": {},
        "parent_subscription": subscription,
        "period": {"start": span[0], "end": span[1]},
        "price_body": price,
        "proration": proration,
        "quantity": quantity,
    }


def keep(state: State, body: Body) -> None:
    """Puts an item on record, to wait for the next invoice."""
    objects.insert(state, "invoiceitem", body, customer=body["customer"], status="pending")


def pending(state: State, customer: str, currency: str, subscription: str | None, taken_by: str | None) -> list[Body]:
    """The items that the next invoice takes: those of this subscription, and those of none. With `taken_by` it has them now."""
    found = [
        item
        for item in objects.find(state, "invoiceitem", customer=customer, status="pending")
        if item["currency"] == currency and item["parent_subscription"] in (None, subscription)
    ]
    if taken_by is not None:
        for item in found:
            item["invoice"] = taken_by
            objects.save(state, item, status="taken", parent=taken_by)
    return found


def shown(body: Body) -> Body:
    """An item as it is answered."""
    answer = {name: value for name, value in body.items() if name not in ("price_body", "parent_subscription")}
    price = body["price_body"]
    answer["pricing"] = None
    if price is not None:
        details = {"price": price["id"], "product": price["product"]}
        answer["pricing"] = {
            "price_details": details,
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        }
    subscription = body["parent_subscription"]
    answer["parent"] = None
    if subscription is not None:
        answer["parent"] = {"subscription_details": {"subscription": subscription}, "type": "subscription_details"}
    return answer
