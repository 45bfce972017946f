"""Lago against the suite of every payment provider, and what is Lago's own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import SecretStr

from control_plane.provider.errors import Ambiguous, RateLimited, Refused
from control_plane.provider.lago import LagoProvider
from control_plane.provider.opening import open_provider
from control_plane.provider.values import CustomerOrder, ItemChange, SubscriptionChange, UsageEvent
from runtime.settings import Settings, SettingsError
from tests.fakes.local_lago_server import KEY, Answered, LocalLago, local_lago
from tests.integration.provider_suite import DAY_S, METERED, MONTHLY, NOW, OTHER, YEARLY, ProviderSuite, ProviderWorld

PRICES = {MONTHLY: (4900, "monthly"), YEARLY: (49000, "yearly"), OTHER: (9900, "monthly"), METERED: (0, "monthly")}


class LagoWorld(ProviderWorld):
    def __init__(self, lago: LocalLago) -> None:
        self.lago = lago
        self.provider: LagoProvider = LagoProvider(lago.url, KEY, timeout_s=10)
        lago.metrics.add(self.meter())
        for name, (amount, interval) in PRICES.items():
            lago.plan(name, amount, interval)

    def price(self, name: str) -> str:
        return name

    def token(self, *, works: bool = True) -> str:
        return "pm_of_nobody"

    def meter(self) -> str:
        return "provider_suite"

    def advance(self, seconds: int) -> None:
        self.lago.advance(seconds)

    def unanswered(self, call: Callable[[], object]) -> None:
        self.lago.fault = "drop"
        call()

    def failing(self, call: Callable[[], object]) -> None:
        self.lago.fault = "error"
        call()

    def with_wrong_credentials(self) -> LagoProvider:
        return LagoProvider(self.lago.url, "another", timeout_s=10)

    def with_nobody_there(self) -> LagoProvider:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        return LagoProvider(f"http://127.0.0.1:{port}", KEY, timeout_s=2)


@pytest.fixture(scope="module")
def running() -> Iterator[LagoWorld]:
    with local_lago(NOW) as lago:
        yield LagoWorld(lago)


@pytest.fixture
def world(running: LagoWorld) -> LagoWorld:
    running.lago.now = NOW
    return running


class TestLago(ProviderSuite):
    """The suite."""


def test_no_answer_in_time_is_unclear() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = LagoProvider(f"http://127.0.0.1:{silent.getsockname()[1]}", KEY, timeout_s=0.1)
        with pytest.raises(Ambiguous) as error:
            provider.create_customer(CustomerOrder("tnt_x", "x"), "key")
    assert not error.value.ended


def test_what_was_cancelled_at_the_periods_end_is_over_then(world: LagoWorld) -> None:
    made = world.subscription()
    ending = world.provider.cancel_at_period_end(made.id, world.key())
    assert ending.cancel_at == made.period_end
    world.advance(30 * DAY_S)
    over = world.provider.subscription(made.id)
    assert (over.status, over.ended_at) == ("canceled", made.period_end)


def test_a_cheaper_plan_waits_for_the_periods_end_and_the_answer_says_what_runs(world: LagoWorld) -> None:
    order = world.order(world.customer(), OTHER)
    made = world.provider.create_subscription(order, world.key())
    change = SubscriptionChange(items=(ItemChange(id=made.items[0].id, price_id=MONTHLY),))
    assert [item.price_id for item in world.provider.update_subscription(made.id, change, world.key()).items] == [OTHER]


def test_a_plan_in_another_currency_is_refused(world: LagoWorld) -> None:
    world.lago.plan("in-yen", 700, currency="JPY")
    order = replace(world.order(world.customer()), currency="jpy")
    with pytest.raises(Refused) as refused:
        world.provider.create_subscription(order, world.key())
    assert refused.value.code == "wrong_currency"


def test_usage_without_a_subscription_or_of_a_metric_that_there_is_not_is_refused(world: LagoWorld) -> None:
    customer = world.customer()
    order = world.order(customer)
    world.provider.create_subscription(order, world.key())
    event = UsageEvent(world.meter(), customer.id, "id-1", 7, NOW, order.reference)
    for wrong in (replace(event, subscription_reference=None), replace(event, meter="nothing")):
        with pytest.raises(Refused):
            world.provider.record_usage(wrong)
    world.provider.record_usage(event)
    assert world.lago.events["id-1"]["timestamp"] == int(NOW.timestamp())


def test_ids_of_ours_travel_as_they_are_in_paths(world: LagoWorld) -> None:
    reference = "tnt/1 ?&ü"
    made = world.provider.create_customer(CustomerOrder(reference, "Northlight"), world.key())
    assert world.provider.customer(reference) == made


def test_too_many_calls_say_when_to_come_back(world: LagoWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> dict[str, object]:
        raise Answered(429, error="Too Many Requests", code="rate_limit")

    monkeypatch.setattr(LocalLago, "answer", busy)
    with pytest.raises(RateLimited) as limited:
        world.provider.customer("tnt_x")
    assert limited.value.after_s == 1


def test_the_settings_choose_the_provider(world: LagoWorld) -> None:
    chosen = Settings(payment_provider="lago", lago_api_url=world.lago.url, lago_api_key=SecretStr(KEY))
    assert open_provider(chosen).account() == "be_local"
    with pytest.raises(SettingsError, match="METERLINE_LAGO_API_KEY"):
        open_provider(Settings(payment_provider="lago"))
    with pytest.raises(SettingsError, match="https"):
        open_provider(chosen.model_copy(update={"lago_api_url": "http://lago.example"}))


def test_periods_begin_where_the_one_before_ends(world: LagoWorld) -> None:
    made = world.subscription()
    assert made.period_end - timedelta(seconds=1) < made.period_end
    assert (made.period_end.day, made.period_end.hour, made.period_end.second) == (1, 0, 0)
