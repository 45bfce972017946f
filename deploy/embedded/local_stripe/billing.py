"""What a subscription is billed for: the first invoice, each cycle, a change in between, the end; and what it would be."""

from __future__ import annotations

from deploy.embedded.local_stripe import amounts, cycles, invoice_items, invoice_lines, invoices, subscription_state
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.state import State

Span = tuple[int, int]


def first_lines(state: State, body: Body, items: list[Body]) -> list[Body]:
    """Seats of the first period, a part of it where the cycle begins elsewhere; nothing is owed for a trial."""
    span = period(body)
    if body["status"] == "trialing":
        return [invoice_lines.of_item(item, item["price"], 0, item["quantity"] or 0, span) for item in items]
    full = full_period(body)
    licensed = [item for item in items if not invoice_lines.is_metered(item)]
    return [invoice_lines.in_advance(state, item, span, full if full != span else None) for item in licensed]


def cycle_lines(state: State, body: Body, items: list[Body], ended: Span | None, begun: Span | None) -> list[Body]:
    """Usage of the period that ended, seats of the one that begins."""
    lines = []
    for item in items:
        if invoice_lines.is_metered(item):
            if ended is not None:
                lines.append(invoice_lines.in_arrears(state, item, body["customer"], ended))
        elif begun is not None:
            lines.append(invoice_lines.in_advance(state, item, begun))
    return lines


def invoice(state: State, body: Body, lines: list[Body], reason: str, now: int, span: Span, *, keep: bool = True) -> Body:
    """A draft with these lines and the pending items; `keep`: on record, the items taken."""
    made = invoices.make(
        state, now, body["customer"], body["currency"], lines, reason, span=span, subscription=body,
        discounts=running_discounts(body, now), collection_method=body["collection_method"],
        days_until_due=body["days_until_due"], auto_advance=body["pause_collection"] is None,
    )  # fmt: skip
    taken_by = made["id"] if keep else None
    made["lines"]["data"] += invoices.take_pending(state, body["customer"], body["currency"], taken_by, body["id"])
    invoices.add_up(made)
    if keep:
        invoices.keep(state, made)
        body["latest_invoice"] = made["id"]
        _use_discounts(body)
        _paused(state, body, made, now)
    return made


def upcoming(state: State, body: Body, now: int) -> Body:
    """What the next cycle's invoice would be as things stand. Nothing is written."""
    items = subscription_state.items_of(state, body["id"])
    span = period(body)
    ends = body["cancel_at_period_end"] or (body["cancel_at"] is not None and body["cancel_at"] <= span[1])
    ended = None if body["status"] == "trialing" else span
    begun = None if ends else (span[1], next_end(body, span[1]))
    return invoice(state, body, cycle_lines(state, body, items, ended, begun), "upcoming", now, span, keep=False)


def prorate(state: State, body: Body, old: Body | None, new: Body | None, now: int, at: int) -> list[Body]:
    """Items for the rest of the period: what was paid for the old seats comes back, the new ones are charged."""
    span = period(body)
    found = []
    for item, sign, words in ((old, -1, "Unused time"), (new, 1, "Remaining time")):
        if item is None or invoice_lines.is_metered(item) or body["status"] == "trialing":
            continue
        price = invoice_lines.price_of(state, item)
        amount = sign * invoice_lines.part(amounts.cost(price, item["quantity"]), at, span)
        found.append(
            invoice_items.made(
                now,
                body["customer"],
                amount,
                price["currency"],
                f"{words} on {item['quantity']} x {price['id']}",
                (at, span[1]),
                price=price,
                quantity=item["quantity"],
                subscription=body["id"],
                proration=True,
            )
        )
    return found


def keep_pending(state: State, items: list[Body]) -> None:
    """Puts them on record, to wait for the next invoice."""
    for item in items:
        invoice_items.keep(state, item)


def period(body: Body) -> Span:
    """The running period."""
    return body["_period"][0], body["_period"][1]


def next_end(body: Body, at: int) -> int:
    """When the cycle after `at` ends."""
    return cycles.after(body["billing_cycle_anchor"], body["_interval"], body["_interval_count"], at, anchor_day(body))


def full_period(body: Body) -> Span:
    """The whole cycle that the running period is in, or a part of."""
    start, end = period(body)
    anchor, interval, count = body["billing_cycle_anchor"], body["_interval"], body["_interval_count"]
    if end == anchor:
        # The cycle before the anchor: as long as the one after it, counted back.
        return cycles.nth(anchor, interval, count, -1, anchor_day(body)), anchor
    number = 0
    while cycles.nth(anchor, interval, count, number + 1, anchor_day(body)) <= start:
        number += 1
    return cycles.nth(anchor, interval, count, number, anchor_day(body)), end


def anchor_day(body: Body) -> int | None:
    """The day of the month that periods start on, where it was asked for as such."""
    config = body.get("billing_cycle_anchor_config")
    return None if config is None else int(config["day_of_month"])


def running_discounts(body: Body, now: int) -> list[Body]:
    """The discounts that have not run out."""
    return [one for one in body["_discounts"] if one["end"] is None or one["end"] > now]


def _use_discounts(body: Body) -> None:
    """A discount for one invoice is over once an invoice has it."""
    body["_discounts"] = [one for one in body["_discounts"] if one["source"]["coupon"]["duration"] != "once"]
    body["discounts"] = [one["id"] for one in body["_discounts"]]


def _paused(state: State, body: Body, made: Body, now: int) -> None:
    pause = body["pause_collection"]
    if pause is None or pause["behavior"] == "keep_as_draft":
        return
    invoices.finalize(state, made, now, pay=False)
    if made["status"] == "open":
        invoices.end(state, made, now, "void" if pause["behavior"] == "void" else "uncollectible")
