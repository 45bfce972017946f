"""What a request says about a subscription: its items with their prices, its trial, its discounts. Nothing is written here
but items."""

from __future__ import annotations

from deploy.embedded.local_stripe import forms, metadata, objects
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.problems import Problem, missing, wrong
from deploy.embedded.local_stripe.state import State

ITEMS_MAX = 20
TRIAL_S_MAX = 730 * 86_400
QUANTITY_MAX = 999_999
_ANCHOR = {"day_of_month": (1, 31), "month": (1, 12), "hour": (0, 23), "minute": (0, 59), "second": (0, 59)}


def new_item(state: State, row: forms.Params, subscription: str, now: int, param: str) -> Body:
    """An item that is not on record yet. Raises Problem for a price that cannot be subscribed to."""
    forms.only(row, ("price", "quantity", "metadata"))
    price = subscribable(state, row, param)
    return {
        "id": new_id("si"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": now,
        "discounts": [],
        "metadata": metadata.of(row),
        "price": price,
        "quantity": quantity_of(row, price, param),
        "subscription": subscription,
        "tax_rates": [],
    }


def subscribable(state: State, row: forms.Params, param: str) -> Body:
    """The recurring, active price that a row names."""
    identifier = forms.text_of(row, "price")
    if not identifier:
        raise missing(f"{param}[price]")
    price = objects.get(state, "price", identifier, f"{param}[price]", 400)
    if price["recurring"] is None:
        raise wrong(f"{param}[price]", "a one-time price cannot be subscribed to")
    if not price["active"]:
        raise Problem(f"The price {identifier} is inactive.", param=f"{param}[price]")
    return price


def quantity_of(row: forms.Params, price: Body, param: str) -> int | None:
    """Seats; a metered price has none."""
    quantity = forms.integer_of(row, "quantity")
    if price["recurring"]["usage_type"] == "metered":
        if quantity is not None:
            raise wrong(f"{param}[quantity]", "a metered price has no quantity")
        return None
    if quantity is not None and not 0 <= quantity <= QUANTITY_MAX:
        raise wrong(f"{param}[quantity]", f"want 0 to {QUANTITY_MAX}")
    return 1 if quantity is None else quantity


def together(items: list[Body], currency: str | None) -> tuple[str, str, int]:
    """(currency, interval, count) that all items share. Raises Problem."""
    if not items:
        raise missing("items")
    if len(items) > ITEMS_MAX:
        raise Problem(f"A subscription has at most {ITEMS_MAX} items.", param="items")
    shared = {(one["price"]["currency"], one["price"]["recurring"]["interval"], one["price"]["recurring"]["interval_count"])
              for one in items}  # fmt: skip
    if len(shared) > 1:
        raise Problem("All items of a subscription have one currency and one interval.", param="items")
    if len({one["price"]["id"] for one in items}) < len(items):
        raise Problem("Two items of a subscription cannot have the same price.", param="items")
    found = shared.pop()
    if currency is not None and currency.lower() != found[0]:
        raise Problem(f"The prices are in {found[0]}, not in {currency}.", param="currency")
    return found


def trial_end_of(params: forms.Params, now: int) -> int | None:
    """When a trial ends; None without one."""
    days = forms.integer_of(params, "trial_period_days")
    text = forms.text_of(params, "trial_end")
    if days is not None and text:
        raise wrong("trial_period_days", "give either trial_end or trial_period_days")
    if days is not None:
        if not 0 <= days * 86_400 <= TRIAL_S_MAX:
            raise wrong("trial_period_days", "want 0 to 730")
        return now + days * 86_400 if days else None
    if not text or text == "now":
        return None
    end = forms.required_integer(params, "trial_end")
    if not now < end <= now + TRIAL_S_MAX:
        raise wrong("trial_end", "want a time ahead, at most two years")
    return end


def anchor_config_of(params: forms.Params) -> Body | None:
    """The day of the month, and the time, that periods are to start on; None where it is not said so."""
    if "billing_cycle_anchor_config" not in params:
        return None
    if "billing_cycle_anchor" in params:
        raise wrong("billing_cycle_anchor_config", "give either this or billing_cycle_anchor")
    given = forms.inner_of(params, "billing_cycle_anchor_config")
    forms.only(given, tuple(_ANCHOR))
    config: Body = {name: forms.integer_of(given, name) for name in _ANCHOR}
    for name, (least, most) in _ANCHOR.items():
        if config[name] is None and name == "day_of_month":
            raise missing("billing_cycle_anchor_config[day_of_month]")
        if config[name] is not None and not least <= config[name] <= most:
            raise wrong(f"billing_cycle_anchor_config[{name}]", f"want {least} to {most}")
    return config


def time_s_of(config: Body) -> int:
    """The time of day of an anchor, in seconds after midnight; what is not said is 0."""
    return (config["hour"] or 0) * 3_600 + (config["minute"] or 0) * 60 + (config["second"] or 0)


def missing_method_of(params: forms.Params) -> str:
    """What the end of a trial does when there is nothing to charge."""
    behavior = forms.inner_of(forms.inner_of(params, "trial_settings"), "end_behavior")
    return forms.choice_of(behavior, "missing_payment_method", ("cancel", "pause", "create_invoice")) or "create_invoice"


def pause_of(params: forms.Params) -> Body | None:
    """What pause_collection says; None ends the pause."""
    given = forms.inner_of(params, "pause_collection")
    if not given:
        return None
    forms.only(given, ("behavior", "resumes_at"))
    behavior = forms.choice_of(given, "behavior", ("keep_as_draft", "mark_uncollectible", "void"))
    if behavior is None:
        raise missing("pause_collection[behavior]")
    return {"behavior": behavior, "resumes_at": forms.integer_of(given, "resumes_at")}
