"""Stripe as a provider, on the official SDK and the local Stripe, passes the suite of providers; and what is Stripe's own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from control_plane.provider.errors import Ambiguous, NotFound, RateLimited, Refused
from control_plane.provider.stripe import StripeProvider
from control_plane.provider.values import ItemChange, ItemOrder, PromotionCodeOrder, SubscriptionChange, SubscriptionOrder
from tests.fakes.local_stripe_server import LocalStripeServer
from tests.integration.provider_suite import DAY_S, METERED, MONTHLY, NOW, OTHER, YEARLY, ProviderSuite, ProviderWorld

PRICES = {MONTHLY: (4900, "month"), YEARLY: (49000, "year"), OTHER: (9900, "month")}


class StripeWorld(ProviderWorld):
    def __init__(self, server: LocalStripeServer) -> None:
        self.server = server
        self.provider: StripeProvider = StripeProvider(server.key, api_base=server.url, timeout_s=10)
        self._prices: dict[str, str] = {}
        self.set_clock()

    def set_clock(self) -> None:
        self.server.admin("clock", {"now": int(NOW.timestamp())})

    def price(self, name: str, currency: str = "usd") -> str:
        if f"{name} {currency}" not in self._prices:
            client = self.server.client()
            product = client.v1.products.create({"name": name}).id
            recurring: dict[str, object] = {"interval": "month"}
            amount = 0
            if name == METERED:
                meter = client.v1.billing.meters.create(
                    {
                        "display_name": self.meter(),
                        "event_name": self.meter(),
                        "default_aggregation": {"formula": "last"},
                        "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
                        "value_settings": {"event_payload_key": "value"},
                    }
                )
                recurring |= {"usage_type": "metered", "meter": meter.id}
            else:
                amount, recurring["interval"] = PRICES[name]
            made = client.v1.prices.create(
                {"product": product, "currency": currency, "unit_amount": amount, "recurring": recurring}  # type: ignore[typeddict-item]
            )
            self._prices[f"{name} {currency}"] = made.id
        return self._prices[f"{name} {currency}"]

    def token(self, *, works: bool = True) -> str:
        return "pm_card_visa" if works else "pm_card_chargeCustomerFail"

    def meter(self) -> str:
        return "provider_suite"

    def advance(self, seconds: int) -> None:
        self.server.admin("clock", {"advance": seconds})

    def unanswered(self, call: Callable[[], object]) -> None:
        self.with_fault("drop", call)

    def failing(self, call: Callable[[], object]) -> None:
        self.with_fault("error", call)

    def with_fault(self, fault: str, call: Callable[[], object]) -> None:
        self.server.admin("faults", {"rates": {fault: 1.0}, "seed": 1})
        try:
            call()
        finally:
            self.server.admin("faults", {})

    def with_wrong_credentials(self) -> StripeProvider:
        return StripeProvider("sk_test_somebody_else", api_base=self.server.url, timeout_s=10)

    def with_nobody_there(self) -> StripeProvider:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        return StripeProvider(self.server.key, api_base=f"http://127.0.0.1:{port}", timeout_s=2)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StripeWorld]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as server:
        yield StripeWorld(server)


@pytest.fixture
def world(running: StripeWorld) -> StripeWorld:
    running.set_clock()
    return running


class TestStripe(ProviderSuite):
    """The suite."""


def test_no_answer_in_time_is_ambiguous() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = StripeProvider("sk_test_x", api_base=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        with pytest.raises(Ambiguous) as error:
            provider.account()
    assert not error.value.ended


def test_a_conflict_is_worth_another_try_and_nothing_was_done(world: StripeWorld) -> None:
    customer = world.customer()
    with pytest.raises(RateLimited):
        world.with_fault("rate_limit", lambda: world.provider.create_subscription(world.order(customer), world.key()))
    assert world.provider.subscriptions(customer.id).items == ()


def test_one_key_for_two_orders_is_refused(world: StripeWorld) -> None:
    customer, key = world.customer(), world.key()
    world.provider.create_subscription(world.order(customer), key)
    with pytest.raises(Refused) as refused:
        world.provider.create_subscription(world.order(customer), key)
    assert refused.value.code == "idempotency_key_reused"


@pytest.mark.parametrize("currency", ["jpy", "bhd"])
def test_a_currency_without_and_one_with_three_decimals_is_whole_minor_units(world: StripeWorld, currency: str) -> None:
    customer = world.customer()
    order = SubscriptionOrder(f"sub_{world.key()}", customer.id, (ItemOrder(world.price(MONTHLY, currency)),), currency)
    made = world.provider.create_subscription(order, world.key())
    assert made.currency == currency
    (invoice,) = world.provider.invoices(customer.id).items
    assert (invoice.currency, invoice.total) == (currency, 4900)


def test_pending_prorations_are_invoiced_when_asked_for(world: StripeWorld) -> None:
    made = world.subscription()
    world.advance(10 * DAY_S)
    change = SubscriptionChange(items=(ItemChange(id=made.items[0].id, price_id=world.price(OTHER)),))
    world.provider.update_subscription(made.id, change, world.key())
    upcoming = world.provider.upcoming_invoice(made.id)
    assert sum(line.amount for line in upcoming.lines if line.proration) > 0


def test_a_promotion_takes_its_part_off_the_first_invoice(world: StripeWorld) -> None:
    code = world.provider.create_promotion_code(
        PromotionCodeOrder(f"promo_{world.key()}", f"HALF{world.key()[:8]}", amount_off=900, currency="usd"), world.key()
    )
    order = world.order(world.customer())
    given = SubscriptionOrder(order.reference, order.customer_id, order.items, "usd", promotion_code_id=code.id)
    made = world.provider.create_subscription(given, world.key())
    (invoice,) = world.provider.invoices(made.customer_id).items
    assert (invoice.subtotal, invoice.discount, invoice.total) == (4900, 900, 4000)
    assert world.provider.promotion_code(code.id).redeemed == 1


def test_a_trial_is_followed_by_a_part_of_a_period_and_then_by_whole_ones(world: StripeWorld) -> None:
    order = world.order(world.customer())
    wanted = SubscriptionOrder(
        order.reference, order.customer_id, order.items, "usd", anchor_day=1, trial_end=NOW + timedelta(days=5)
    )
    made = world.provider.create_subscription(wanted, world.key())
    world.advance(6 * DAY_S)
    begun = world.provider.subscription(made.id)
    assert (begun.status, begun.period_end) == ("active", datetime(2026, 12, 1, tzinfo=UTC))
    world.advance(10 * DAY_S)
    assert world.provider.subscription(made.id).period_end == datetime(2027, 1, 1, tzinfo=UTC)


def test_a_customer_that_was_deleted_is_not_found(world: StripeWorld) -> None:
    customer = world.customer()
    world.server.client().v1.customers.delete(customer.id)
    with pytest.raises(NotFound):
        world.provider.customer(customer.id)


def test_a_live_key_is_known_by_its_prefix() -> None:
    assert StripeProvider("sk_live_x", api_base="http://127.0.0.1:9", timeout_s=1).livemode
    assert not StripeProvider("rk_test_x", api_base="http://127.0.0.1:9", timeout_s=1).livemode
