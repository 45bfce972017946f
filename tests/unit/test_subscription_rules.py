"""What the provider is to hold for a subscription, what a subscription is by its parts, and what its usage costs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.invoices.preview import usage_line
from control_plane.provider.values import ItemChange, ItemOrder, Subscription, SubscriptionItem
from control_plane.refusals import Refusal
from control_plane.subscriptions.states import PriceMeaning, derive
from control_plane.subscriptions.wanted import item_changes, parts_of, reference_of, subscription_of
from deploy.embedded.local_stripe import amounts
from metering.currencies import exponent

START = datetime(2026, 11, 1, tzinfo=UTC)
PRICES = {
    "base": PriceMeaning("base", "studio", "monthly"),
    "year": PriceMeaning("base", "studio", "yearly"),
    "usage": PriceMeaning("overage", "studio", "monthly"),
}


def part(*items: SubscriptionItem, number: int = 1, **over: object) -> Subscription:
    found = Subscription(
        id=f"sub_{number}", reference=None, customer_id="cus_1", status="active", currency="usd", interval="month",
        interval_count=1, items=items, anchor=START, anchor_day=1, period_start=START, period_end=START + timedelta(days=30),
        cancel_at_period_end=False, cancel_at=None, canceled_at=None, ended_at=None, trial_start=None, trial_end=None, pause=None,
        payment_method_id=None, latest_invoice_id=None, created=START + timedelta(seconds=number),
    )  # fmt: skip
    return replace(found, **over)  # type: ignore[arg-type]


def item(price_id: str, quantity: int | None = 1, number: int = 1) -> SubscriptionItem:
    return SubscriptionItem(f"si_{number}", price_id, quantity, None)


def test_a_month_is_one_part_and_a_year_has_its_usage_beside_it() -> None:
    (month,) = parts_of("monthly", "base", 3, ["usage"], [ItemOrder("seat", 2)])
    assert month.items == (ItemOrder("base", 3), ItemOrder("seat", 2), ItemOrder("usage"))
    usage, year = parts_of("yearly", "base", 1, ["usage"], [])
    assert (usage.interval, usage.base, usage.items) == ("month", False, (ItemOrder("usage"),))
    assert (year.interval, year.base, year.items) == ("year", True, (ItemOrder("base", 1),))
    assert [one.interval for one in parts_of("yearly", "base", 1, [], [])] == ["year"]


def test_seats_give_way_in_place_and_usage_is_taken_away_and_added() -> None:
    current = part(item("old", 2, 1), item("usage-old", None, 2))
    changes = item_changes(current, [ItemOrder("new", 3), ItemOrder("usage-new")])
    assert changes == (
        ItemChange(id="si_1", price_id="new", quantity=3),
        ItemChange(id="si_2", deleted=True),
        ItemChange(price_id="usage-new"),
    )
    assert item_changes(part(item("new", 3), item("usage-new", None, 2)), [ItemOrder("new", 3), ItemOrder("usage-new")]) == ()


PRICE_NAMES = st.lists(st.sampled_from("abcde"), max_size=4, unique=True)


@given(PRICE_NAMES, PRICE_NAMES, st.integers(1, 3), st.integers(1, 3))
def test_the_changes_lead_from_what_is_there_to_what_is_wanted(there: list[str], wanted: list[str], old: int, new: int) -> None:
    metered = "de"
    current = part(*(item(name, None if name in metered else old, number) for number, name in enumerate(there)))
    orders = [ItemOrder(name, None if name in metered else new) for name in wanted]
    held = {one.id: (one.price_id, one.quantity) for one in current.items}
    for number, change in enumerate(item_changes(current, orders)):
        if change.deleted:
            del held[str(change.id)]
        elif change.id is None:
            held[f"new{number}"] = (str(change.price_id), change.quantity)
        else:
            price_id, quantity = held[change.id]
            held[change.id] = (change.price_id or price_id, quantity if change.quantity is None else change.quantity)
    assert sorted(held.values(), key=str) == sorted(((one.price_id, one.quantity) for one in orders), key=str)


def test_the_part_that_is_paid_for_says_what_the_subscription_is() -> None:
    usage = part(item("usage", None), number=1)
    year = part(item("year", 2), number=2, interval="year", status="past_due", period_end=START + timedelta(days=365))
    contract = derive([usage, year], PRICES, 1)
    assert (contract.plan_id, contract.billing_cycle, contract.status, contract.quantity) == ("studio", "yearly", "past_due", 2)
    assert contract.period_end == year.period_end
    over = replace(year, status="canceled", ended_at=START)
    assert derive([over, usage], PRICES, 1).status == "canceled"
    again = part(item("base"), number=3)
    assert derive([over, usage, again], PRICES, 1).billing_cycle == "monthly"


@pytest.mark.parametrize(
    ("anchor", "day", "misaligned"), [(START, 1, False), (START + timedelta(hours=1), 1, True), (START, 31, True)]
)
def test_periods_that_are_not_the_tenants_are_misaligned(anchor: datetime, day: int, misaligned: bool) -> None:
    assert derive([part(item("base"), anchor=anchor)], PRICES, day).misaligned is misaligned


def test_what_is_paid_for_beside_the_plan_is_known_by_being_no_price_of_a_plan() -> None:
    contract = derive([part(item("base"), item("seat", 4, 2), item("usage", None, 3))], PRICES, 1)
    assert contract.addons == (ItemOrder("seat", 4),)


def test_a_reference_says_whose_it_is_and_another_one_nothing() -> None:
    assert subscription_of(reference_of("sub_1", "op_1", "year")) == ("sub_1", "op_1")
    for other in (None, "", "sub_1", "tnt.a.b", "sub_1.op.month.more"):
        assert subscription_of(other) is None


@given(
    used=st.decimals(0, 10**9, places=6),
    included=st.integers(0, 10**6),
    price=st.decimals(Decimal("0.000001"), 1_000, places=6),
    currency=st.sampled_from(("usd", "jpy", "kwd")),
)
def test_usage_costs_to_the_unit_what_the_graduated_price_bills(
    used: Decimal, included: int, price: Decimal, currency: str
) -> None:
    scale = 1_000
    line = usage_line("RENDER", used, Decimal(included), price, scale, currency)
    unit_amount = price * 10 ** exponent(currency) / scale
    tiers = [
        {"up_to": included * scale or None, "unit_amount_decimal": "0", "flat_amount_decimal": None},
        {"up_to": None, "unit_amount_decimal": f"{unit_amount:f}", "flat_amount_decimal": None},
    ]
    tiered = {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": tiers if included else tiers[1:]}
    assert line.amount == amounts.rounded(amounts.cost(tiered, int(used * scale)))


def test_usage_that_no_price_bills_exactly_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        usage_line("RENDER", Decimal(1), Decimal("0.0005"), Decimal("0.01"), 1_000, "usd")
    assert refused.value.code == "overage_not_priced"
