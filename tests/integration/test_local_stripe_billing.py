"""Subscriptions and invoices of the local Stripe, by the official SDK and a clock that the test moves."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.fakes.local_stripe_server import LocalStripeServer

MARCH = int(datetime(2027, 3, 1, tzinfo=UTC).timestamp())
DAY = 86_400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        yield running


class World:
    """A customer with a card, and prices."""

    def __init__(self, server: LocalStripeServer, name: str) -> None:
        self.server, self.name = server, name
        self.client = server.client()
        self.now = MARCH
        self.at(MARCH)
        self.customer = self.client.v1.customers.create({"name": name}).id
        self.product = self.client.v1.products.create({"name": name}).id
        meter: Any = {"display_name": name, "event_name": name, "default_aggregation": {"formula": "last"}}
        self.meter = self.client.v1.billing.meters.create(meter).id

    def at(self, now: int) -> None:
        self.now = now
        self.server.admin("clock", {"now": now})

    def card(self, name: str = "visa") -> str:
        method = self.client.v1.payment_methods.attach(f"pm_card_{name}", {"customer": self.customer}).id
        self.client.v1.customers.update(self.customer, {"invoice_settings": {"default_payment_method": method}})
        return method

    def price(self, amount: int, currency: str = "usd", **recurring: Any) -> str:
        every: Any = {"interval": "month", **recurring}
        made = self.client.v1.prices.create(
            {"currency": currency, "product": self.product, "unit_amount": amount, "recurring": every}
        )
        return made.id

    def metered(self, included: int, overage: str) -> str:
        tiers: Any = [{"up_to": included, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": overage}]
        made = self.client.v1.prices.create(
            {
                "currency": "usd",
                "product": self.product,
                "billing_scheme": "tiered",
                "tiers_mode": "graduated",
                "tiers": tiers,
                "recurring": {"interval": "month", "usage_type": "metered", "meter": self.meter},
            }
        )
        return made.id

    def subscribe(self, *items: Any, **more: Any) -> Any:
        params: Any = {"customer": self.customer, "items": list(items), **more}
        return self.client.v1.subscriptions.create(params)

    def use(self, total: int, at: int) -> None:
        payload = {"stripe_customer_id": self.customer, "value": str(total)}
        identifier = f"{self.name}-{total}"
        params: Any = {"event_name": self.name, "identifier": identifier, "timestamp": at, "payload": payload}
        self.client.v1.billing.meter_events.create(params)

    def invoice(self, subscription: str) -> Any:
        latest = self.client.v1.subscriptions.retrieve(subscription).latest_invoice
        assert isinstance(latest, str)
        return self.client.v1.invoices.retrieve(latest)

    def status(self, subscription: str) -> str:
        return str(self.client.v1.subscriptions.retrieve(subscription).status)


@pytest.fixture
def world(server: LocalStripeServer, request: pytest.FixtureRequest) -> World:
    return World(server, f"units_{zlib.crc32(request.node.name.encode())}")


def test_seats_are_paid_in_advance_and_usage_in_arrears_until_the_draft_is_final(world: World) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(2_000), "quantity": 3}, {"price": world.metered(100, "0.5")})
    first = world.invoice(sub.id)
    assert (sub.status, first.status, first.total, first.amount_paid) == ("active", "paid", 6_000, 6_000)
    world.at(MARCH + 31 * DAY - 60)
    world.use(301, world.now)
    world.at(MARCH + 31 * DAY + 1)
    draft = world.invoice(sub.id)
    assert (draft.status, draft.billing_reason) == ("draft", "subscription_cycle")
    assert sorted(line.amount for line in draft.lines.data) == [101, 6_000]
    world.use(401, MARCH + 31 * DAY - 30)
    world.at(MARCH + 31 * DAY + 3_601)
    final = world.invoice(sub.id)
    assert (final.status, final.total, final.amount_paid) == ("paid", 6_151, 6_151)


def test_a_change_of_price_is_prorated_and_the_preview_says_so_without_doing_it(world: World) -> None:
    world.card()
    small, large = world.price(3_100), world.price(6_200)
    sub = world.subscribe({"price": small})
    item = sub["items"].data[0].id
    world.at(MARCH + 10 * DAY)
    change: Any = {"items": [{"id": item, "price": large}]}
    preview = world.client.v1.invoices.create_preview({"subscription": sub.id, "subscription_details": change})
    assert world.client.v1.subscription_items.retrieve(item).price.id == small
    world.client.v1.subscriptions.update(sub.id, change)
    world.at(MARCH + 31 * DAY + 3_601)
    billed = world.invoice(sub.id)
    assert sorted(line.amount for line in billed.lines.data) == [-2_100, 4_200, 6_200]
    assert preview.total == billed.total == 8_300


def test_a_trial_costs_nothing_is_announced_and_then_charged(world: World) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(1_000)}, trial_period_days=14)
    assert (sub.status, world.invoice(sub.id).total) == ("trialing", 0)
    world.at(MARCH + 11 * DAY)
    warned = world.client.v1.events.list({"type": "customer.subscription.trial_will_end"}).data
    assert sub.id in [event.data.object["id"] for event in warned]
    world.at(MARCH + 14 * DAY + 3_601)
    assert world.status(sub.id) == "active"
    assert world.invoice(sub.id).amount_paid == 1_000


def test_a_trial_that_ends_without_a_card_can_pause_and_resume(world: World) -> None:
    behavior: Any = {"end_behavior": {"missing_payment_method": "pause"}}
    sub = world.subscribe({"price": world.price(1_000)}, trial_period_days=7, trial_settings=behavior)
    world.at(MARCH + 8 * DAY)
    assert world.status(sub.id) == "paused"
    world.card()
    resumed = world.client.v1.subscriptions.resume(sub.id)
    assert resumed.status == "active"
    assert world.invoice(sub.id).amount_paid == 1_000


def test_a_card_that_is_declined_leaves_incomplete_and_paying_makes_it_active(world: World) -> None:
    world.card("chargeCustomerFail")
    sub = world.subscribe({"price": world.price(1_000)})
    assert sub.status == "incomplete"
    invoice = world.invoice(sub.id)
    with pytest.raises(stripe.CardError):
        world.client.v1.invoices.pay(invoice.id)
    good = world.card()
    assert world.client.v1.invoices.pay(invoice.id, {"payment_method": good}).status == "paid"
    assert world.status(sub.id) == "active"


def test_what_stays_incomplete_for_a_day_expires(world: World) -> None:
    world.card("chargeCustomerFail")
    sub = world.subscribe({"price": world.price(1_000)})
    world.at(MARCH + DAY)
    assert world.status(sub.id) == "incomplete_expired"
    assert world.invoice(sub.id).status == "void"


def test_a_renewal_that_fails_is_past_due_until_it_is_paid(world: World) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(1_000)})
    world.card("chargeCustomerFail")
    world.at(MARCH + 31 * DAY + 3_601)
    assert world.status(sub.id) == "past_due"
    assert world.invoice(sub.id).attempt_count == 1
    world.card()
    world.at(MARCH + 35 * DAY)
    assert (world.invoice(sub.id).status, world.status(sub.id)) == ("paid", "active")


def test_cancelling_at_the_period_end_bills_the_last_usage_and_nothing_more(world: World) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(1_000)}, {"price": world.metered(1, "2")})
    world.client.v1.subscriptions.update(sub.id, {"cancel_at_period_end": True})
    world.at(MARCH + 20 * DAY)
    world.use(11, world.now)
    world.at(MARCH + 40 * DAY)
    assert world.status(sub.id) == "canceled"
    assert world.invoice(sub.id).total == 20
    assert len(world.client.v1.invoices.list({"customer": world.customer}).data) == 2


def test_a_pause_of_collection_voids_what_falls_due_and_ends_by_itself(world: World) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(1_000)})
    pause: Any = {"behavior": "void", "resumes_at": MARCH + 40 * DAY}
    world.client.v1.subscriptions.update(sub.id, {"pause_collection": pause})
    world.at(MARCH + 31 * DAY + 3_601)
    assert world.invoice(sub.id).status == "void"
    world.at(MARCH + 41 * DAY)
    assert world.client.v1.subscriptions.retrieve(sub.id).pause_collection is None
    world.at(MARCH + 62 * DAY)
    assert world.invoice(sub.id).status == "paid"


def test_an_anchor_at_midnight_makes_a_first_period_that_costs_its_part(world: World) -> None:
    world.at(MARCH + 16 * DAY)
    world.card()
    sub = world.subscribe({"price": world.price(3_100)}, billing_cycle_anchor=MARCH + 31 * DAY)
    assert sub["items"].data[0].current_period_end == MARCH + 31 * DAY
    assert world.invoice(sub.id).total == 1_500


@pytest.mark.parametrize("currency", ["jpy", "kwd"])
def test_currencies_without_or_with_three_decimals_count_in_their_smallest_unit(world: World, currency: str) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(1_234, currency)})
    invoice = world.invoice(sub.id)
    assert (invoice.currency, invoice.amount_paid) == (currency, 1_234)


def test_a_promotion_code_takes_off_its_part_for_as_long_as_it_says(world: World) -> None:
    world.card()
    coupon = world.client.v1.coupons.create({"percent_off": 25, "duration": "repeating", "duration_in_months": 2})
    promotion: Any = {"type": "coupon", "coupon": coupon.id}
    code = world.client.v1.promotion_codes.create({"promotion": promotion, "code": "SPRING-1", "max_redemptions": 1})
    sub = world.subscribe({"price": world.price(1_000)}, discounts=[{"promotion_code": code.id}])
    paid = [world.invoice(sub.id).amount_paid]
    for days in (31, 61, 92):
        world.at(MARCH + days * DAY + 3_601)
        paid.append(world.invoice(sub.id).amount_paid)
    assert paid == [750, 750, 1_000, 1_000]
    with pytest.raises(stripe.InvalidRequestError, match="used up"):
        world.subscribe({"price": world.price(1_000)}, discounts=[{"promotion_code": code.id}])


def test_an_amount_off_is_never_more_than_the_invoice(world: World) -> None:
    world.card()
    coupon = world.client.v1.coupons.create({"amount_off": 5_000, "currency": "usd", "duration": "once"})
    sub = world.subscribe({"price": world.price(1_000)}, discounts=[{"coupon": coupon.id}])
    invoice = world.invoice(sub.id)
    assert (invoice.subtotal, invoice.total, invoice.status) == (1_000, 0, "paid")
    world.at(MARCH + 31 * DAY + 3_601)
    assert world.invoice(sub.id).amount_paid == 1_000


def test_single_items_wait_for_the_next_invoice(world: World) -> None:
    world.card()
    item: Any = {"customer": world.customer, "amount": 700, "currency": "usd", "description": "Set-up"}
    world.client.v1.invoice_items.create(item)
    draft: Any = {"customer": world.customer, "pending_invoice_items_behavior": "include", "auto_advance": False}
    invoice = world.client.v1.invoices.create(draft)
    assert (invoice.status, invoice.total) == ("draft", 700)
    assert world.client.v1.invoices.pay(invoice.id).status == "paid"
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        world.client.v1.invoices.pay(invoice.id)


def test_an_invoice_that_is_sent_waits_and_can_be_void_or_uncollectible(world: World) -> None:
    for end, status in (("void_invoice", "void"), ("mark_uncollectible", "uncollectible")):
        world.client.v1.invoice_items.create({"customer": world.customer, "amount": 700, "currency": "usd"})
        draft: Any = {
            "customer": world.customer,
            "pending_invoice_items_behavior": "include",
            "collection_method": "send_invoice",
            "days_until_due": 14,
        }
        invoice = world.client.v1.invoices.create(draft)
        sent = world.client.v1.invoices.send_invoice(invoice.id)
        assert (sent.status, sent.due_date) == ("open", MARCH + 14 * DAY)
        assert getattr(world.client.v1.invoices, end)(invoice.id).status == status


def test_deleting_a_customer_ends_its_subscriptions(world: World) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(1_000)})
    world.client.v1.customers.delete(world.customer)
    assert world.status(sub.id) == "canceled"
    assert world.client.v1.customers.retrieve(world.customer).deleted


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "items"),
        ([{"price": "price_nobody"}], "No such price"),
        ([{"price": "usd"}, {"price": "eur"}], "one currency"),
        ([{"price": "usd"}, {"price": "yearly"}], "one interval"),
        ([{"price": "usd", "quantity": -1}], "quantity"),
    ],
)
def test_what_cannot_be_subscribed_to_is_refused_and_leaves_nothing(world: World, items: list[Any], words: str) -> None:
    world.card()
    prices = {"usd": world.price(100), "eur": world.price(100, "eur"), "yearly": world.price(100, interval="year")}
    with pytest.raises(stripe.InvalidRequestError, match=words):
        world.subscribe(*[{**item, "price": prices.get(item["price"], item["price"])} for item in items])
    assert world.client.v1.subscriptions.list({"customer": world.customer, "status": "all"}).data == []


def test_without_anything_to_charge_a_subscription_is_refused(world: World) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        world.subscribe({"price": world.price(1_000)})


def test_a_lookup_key_finds_its_price_and_moves_when_told(world: World) -> None:
    params: Any = {"currency": "usd", "product": world.product, "unit_amount": 5, "lookup_key": "pro"}
    first = world.client.v1.prices.create(params)
    with pytest.raises(stripe.InvalidRequestError, match="lookup key"):
        world.client.v1.prices.create(params)
    second = world.client.v1.prices.create(params | {"transfer_lookup_key": True})
    assert [one.id for one in world.client.v1.prices.list({"lookup_keys": ["pro"]}).data] == [second.id]
    assert world.client.v1.prices.retrieve(first.id).lookup_key is None


def test_tiers_are_shown_where_they_are_asked_for(world: World) -> None:
    price = world.metered(100, "0.05")
    assert "tiers" not in world.client.v1.prices.retrieve(price).to_dict()
    found = world.client.v1.prices.retrieve(price, {"expand": ["tiers"]}).to_dict()
    assert [tier["up_to"] for tier in found["tiers"]] == [100, None]


def test_everything_survives_a_kill(server: LocalStripeServer, world: World) -> None:
    world.card()
    sub = world.subscribe({"price": world.price(1_000)})
    server.stop(signal.SIGKILL)
    server.start()
    world.client = server.client()
    world.at(MARCH + 31 * DAY + 3_601)
    assert (world.status(sub.id), world.invoice(sub.id).amount_paid) == ("active", 1_000)
