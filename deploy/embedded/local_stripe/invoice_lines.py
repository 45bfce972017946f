"""Lines of invoices: seats in advance, metered usage in arrears, prorations, single items; and what discounts take off."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from deploy.embedded.local_stripe import amounts, meter_events, meters, objects
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.state import State

Span = tuple[int, int]


def in_advance(state: State, item: Body, span: Span, full: Span | None = None) -> Body:
    """Seats for a period; for a part of it where `full` is the whole."""
    price = price_of(state, item)
    amount = amounts.cost(price, item["quantity"])
    if full is not None:
        amount = amounts.share(amount, span[0], *full)
    return of_item(item, price, amounts.rounded(amount), item["quantity"], span)


def in_arrears(state: State, item: Body, customer: str, span: Span) -> Body:
    """What the item's meter shows for a period. Asked again until the invoice is final."""
    price = price_of(state, item)
    quantity = metered(state, price, customer, span)
    return of_item(item, price, amounts.rounded(amounts.cost(price, quantity)), quantity, span)


def metered(state: State, price: Body, customer: str, span: Span) -> int:
    """The meter's total, never below zero."""
    meter = meters.body_of(state, str(price["recurring"]["meter"]))
    return max(meter_events.aggregated(state, meter, customer, *span) or 0, 0)


def price_of(state: State, item: Body) -> Body:
    """The item's price, tiers included."""
    return objects.get(state, "price", item["price"]["id"])


def is_metered(item: Body) -> bool:
    """Whether the item is billed by usage."""
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def of_item(item: Body, price: Body, amount: int, quantity: int, span: Span, *, proration: bool = False) -> Body:
    """A line of a subscription item."""
    details = {
        "invoice_item": None,
        "proration": proration,
        "proration_details": None,
        "subscription": item["subscription"],
        "subscription_item": item["id"],
    }
    parent = {"invoice_item_details": None, "subscription_item_details": details, "type": "subscription_item_details"}
    return _line(amount, price["currency"], price["nickname"] or price["product"], span, price, quantity, parent)


def of_invoice_item(item: Body) -> Body:
    """A line of a pending invoice item."""
    details = {
        "invoice_item": item["id"],
        "proration": item["proration"],
        "proration_details": None,
        "subscription": item["parent_subscription"],
    }
    parent = {"invoice_item_details": details, "subscription_item_details": None, "type": "invoice_item_details"}
    span = (item["period"]["start"], item["period"]["end"])
    line = _line(item["amount"], item["currency"], item["description"], span, item["price_body"], item["quantity"], parent)
    line["discountable"] = item["discountable"]
    line["metadata"] = item["metadata"]
    return line


def total(lines: Iterable[Body]) -> int:
    """What the lines add up to."""
    return sum(int(line["amount"]) for line in lines)


def discount(lines: list[Body], discounts: list[Body]) -> list[Body]:
    """Notes on each line what the discounts take off it, one after the other; returns the sums by discount."""
    left = [int(line["amount"]) for line in lines]
    for line in lines:
        line["discount_amounts"] = []
    sums: list[Body] = []
    for one in discounts:
        coupon = one["source"]["coupon"]
        products = coupon.get("applies_to", {}).get("products")
        rest = coupon["amount_off"]
        taken_by_all = 0
        for place, line in enumerate(lines):
            product = ((line["pricing"] or {}).get("price_details") or {}).get("product")
            if not line["discountable"] or (products is not None and product not in products):
                continue
            off = amounts.discounted(left[place], coupon if rest is None else {**coupon, "amount_off": rest})
            if off:
                line["discount_amounts"].append({"amount": off, "discount": one["id"]})
                left[place] -= off
                taken_by_all += off
                rest = None if rest is None else rest - off
        sums.append({"amount": taken_by_all, "discount": one["id"]})
    return sums


def part(amount: Fraction, at: int, span: Span) -> int:
    """What of a period's amount falls to the time from `at` on, rounded."""
    return amounts.rounded(amounts.share(amount, min(max(at, span[0]), span[1]), *span))


def _line(
    amount: int, currency: str, description: str | None, span: Span, price: Body | None, quantity: int | None, parent: Body
) -> Body:
    pricing = None
    if price is not None:
        details = {"price": price["id"], "product": price["product"]}
        unit = price["unit_amount_decimal"]
        pricing = {"price_details": details, "type": "price_details", "unit_amount_decimal": unit}
    return {
        "id": new_id("il", 24),
        "object": "line_item",
        "amount": amount,
        "currency": currency,
        "description": description,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "livemode": False,
        "metadata": {},
        "parent": parent,
        "period": {"end": span[1], "start": span[0]},
        "pretax_credit_amounts": [],
        "pricing": pricing,
        "quantity": quantity,
        "subtotal": amount,
        "taxes": [],
    }
