"""The port to Stripe: the fake and the real one, the latter on the official SDK and the local Stripe, keep one contract."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing_exporter.gateway import Gateway, GatewayAway, GatewayError, GatewayHalted, MeterEvent
from billing_exporter.stripe_gateway import StripeGateway
from metering.export_states import Delivered, Halted, Refused, Unclear
from tests.fakes.local_stripe_server import LocalStripeServer
from tests.fakes.stripe_gateway import FakeGateway

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)

Move = Callable[[timedelta], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture(params=["fake", "real"])
def both(request: pytest.FixtureRequest) -> tuple[Gateway, Move]:
    """A gateway, and what moves Stripe's clock."""
    if request.param == "fake":
        moved = [NOW]
        return FakeGateway(now=lambda: moved[0]), lambda by: moved.__setitem__(0, moved[0] + by)
    server: LocalStripeServer = request.getfixturevalue("server")
    server.admin("clock", {"now": int(NOW.timestamp())})
    gateway = StripeGateway(server.key, api_base=server.url, timeout_s=10)

    def move(by: timedelta) -> None:
        server.admin("clock", {"advance": int(by.total_seconds())})

    return gateway, move


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of the test's own."""
    return f"n{abs(hash(request.node.nodeid)) % 10**12}"


def _event(name: str, customer: str, *, value: int = 5, at: datetime = NOW, identifier: str = "1") -> MeterEvent:
    return MeterEvent(name, customer, f"{name}-{identifier}", value, at)


def test_an_event_is_delivered_once_and_its_repeat_is_known_as_ours(both: tuple[Gateway, Move], name: str) -> None:
    gateway, move = both
    meter, customer = gateway.create_meter(name, name, "last"), gateway.create_customer(name, "Name")
    assert gateway.send(_event(name, customer.id)) == Delivered()
    move(HOUR * 23)
    assert gateway.send(_event(name, customer.id)) == Delivered(duplicate=True)
    assert gateway.summary(meter.id, customer.id, NOW - HOUR, NOW + HOUR) == 5


def test_a_summary_of_a_last_meter_is_its_newest_timestamp_and_its_end_is_outside(both: tuple[Gateway, Move], name: str) -> None:
    gateway, _ = both
    meter, customer = gateway.create_meter(name, name, "last"), gateway.create_customer(name, "Name")
    assert gateway.summary(meter.id, customer.id, NOW - HOUR, NOW) is None
    for identifier, value, minutes in (("a", 9, 10), ("b", 4, 20), ("c", 999_999_999_999_999, 5)):
        sent = gateway.send(_event(name, customer.id, value=value, at=NOW - timedelta(minutes=minutes), identifier=identifier))
        assert sent == Delivered()
    assert gateway.summary(meter.id, customer.id, NOW - HOUR, NOW) == 999_999_999_999_999
    assert gateway.summary(meter.id, customer.id, NOW - HOUR, NOW - timedelta(minutes=5)) == 9


def test_a_sum_meter_adds_up(both: tuple[Gateway, Move], name: str) -> None:
    gateway, _ = both
    meter, customer = gateway.create_meter(name, name, "sum"), gateway.create_customer(name, "Name")
    for identifier, value in (("a", 7), ("b", 3)):
        gateway.send(_event(name, customer.id, value=value, identifier=identifier))
    assert gateway.summary(meter.id, customer.id, NOW - HOUR, NOW + HOUR) == 10


@pytest.mark.parametrize("what", ["customer", "meter", "old", "ahead"])
def test_what_stripe_never_takes_is_refused_with_its_reason(both: tuple[Gateway, Move], name: str, what: str) -> None:
    gateway, _ = both
    gateway.create_meter(name, name, "last")
    customer = gateway.create_customer(name, "Name")
    event = {
        "customer": _event(name, "cus_nobody"),
        "meter": _event(f"{name}_absent", customer.id),
        "old": _event(name, customer.id, at=NOW - timedelta(days=36)),
        "ahead": _event(name, customer.id, at=NOW + timedelta(minutes=6)),
    }[what]
    outcome = gateway.send(event)
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith("400")


def test_an_archived_meter_refuses_until_it_is_reactivated(
    both: tuple[Gateway, Move], name: str, server: LocalStripeServer
) -> None:
    gateway, _ = both
    meter, customer = gateway.create_meter(name, name, "last"), gateway.create_customer(name, "Name")
    if isinstance(gateway, FakeGateway):
        gateway.deactivate(name)
    else:
        server.client().v1.billing.meters.deactivate(meter.id)
    assert [found.active for found in gateway.meters() if found.meter == name] == [False]
    assert isinstance(gateway.send(_event(name, customer.id)), Refused)
    gateway.reactivate_meter(meter.id)
    assert gateway.send(_event(name, customer.id)) == Delivered()
    with pytest.raises(GatewayError):
        gateway.reactivate_meter("mtr_nothing")


def test_creating_twice_makes_one(both: tuple[Gateway, Move], name: str) -> None:
    gateway, _ = both
    assert gateway.create_meter(name, "Units", "last") == gateway.create_meter(name, "Units", "last")
    tenant = f"{name} \u00fc \u6f22 : , %"
    assert gateway.create_customer(tenant, "Name") == gateway.create_customer(tenant, "Name")
    assert [customer.tenant_id for customer in gateway.customers()].count(tenant) == 1


def test_a_failure_that_stripe_keeps_under_a_key_does_not_keep_what_was_not_made_from_being_made(
    server: LocalStripeServer, name: str
) -> None:
    gateway = StripeGateway(server.key, api_base=server.url, timeout_s=10)
    server.admin("faults", {"rates": {"error": 1.0}, "seed": 1})
    try:
        for _ in range(3):
            with pytest.raises(GatewayAway):
                gateway.create_customer(name, "Name")
            with pytest.raises(GatewayAway):
                gateway.create_meter(name, "Units", "last")
    finally:
        server.admin("faults", {})
    customer = gateway.create_customer(name, "Name")
    assert gateway.create_customer(name, "Name") == customer  # as another run at the same time would find it
    assert [found.id for found in gateway.customers() if found.tenant_id == name] == [customer.id]
    assert gateway.create_meter(name, "Units", "last") == gateway.create_meter(name, "Units", "last")


def test_the_account_and_its_mode_are_told(both: tuple[Gateway, Move]) -> None:
    gateway, _ = both
    account = gateway.account()
    assert account.id.startswith("acct_")
    assert account.livemode is gateway.livemode is False


def test_customers_are_listed_over_many_pages(server: LocalStripeServer) -> None:
    gateway = StripeGateway(server.key, api_base=server.url, timeout_s=10)
    made = {gateway.create_customer(f"page-{number}", "").id for number in range(205)}
    assert made <= {customer.id for customer in gateway.customers()}


def test_a_wrong_key_halts(server: LocalStripeServer) -> None:
    wrong = StripeGateway("sk_test_somebody_else", api_base=server.url, timeout_s=10)
    assert isinstance(wrong.send(_event("x", "cus_1")), Halted)
    for call in (wrong.account, wrong.meters, lambda: list(wrong.customers())):
        with pytest.raises(GatewayHalted):
            call()


def test_nobody_listening_and_no_answer_in_time_are_unclear(server: LocalStripeServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        slow = StripeGateway(server.key, api_base=f"http://127.0.0.1:{port}", timeout_s=0.2)
        assert isinstance(slow.send(_event("x", "cus_1")), Unclear)
    absent = StripeGateway(server.key, api_base=f"http://127.0.0.1:{port}", timeout_s=0.2)
    assert isinstance(absent.send(_event("x", "cus_1")), Unclear)
    with pytest.raises(GatewayAway):
        absent.account()


def test_two_calls_at_once_for_one_customer_and_meter_are_unclear_not_refused(server: LocalStripeServer, name: str) -> None:
    gateway = StripeGateway(server.key, api_base=server.url, timeout_s=10)
    server.admin("clock", {"now": int(NOW.timestamp())})
    gateway.create_meter(name, name, "last")
    customer = gateway.create_customer(name, "").id
    server.admin("faults", {"latency_ms": 300})
    try:
        outcomes: list[object] = []
        threads = [
            threading.Thread(target=lambda n=n: outcomes.append(gateway.send(_event(name, customer, identifier=str(n)))))
            for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        server.admin("faults", {})
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Delivered", "Unclear"]
    assert any(isinstance(outcome, Unclear) and "lock_timeout" in outcome.reason for outcome in outcomes)


def test_a_live_key_is_known_by_its_prefix() -> None:
    assert StripeGateway("sk_live_x", api_base="http://127.0.0.1:9", timeout_s=1).livemode
    assert StripeGateway("rk_live_x", api_base="http://127.0.0.1:9", timeout_s=1).livemode
    assert not StripeGateway("rk_test_x", api_base="http://127.0.0.1:9", timeout_s=1).livemode


def test_a_final_invoice_tells_what_it_billed_of_a_meter_and_a_draft_does_not(server: LocalStripeServer, name: str) -> None:
    """A graduated price: whatever an invoice charges for, its quantity is all that was used."""
    gateway, client = StripeGateway(server.key, api_base=server.url, timeout_s=10), server.client()
    start, end = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    server.admin("clock", {"now": int(start.timestamp())})
    meter, customer = gateway.create_meter(name, name, "last"), gateway.create_customer(name, "Name")
    client.v1.customers.update(
        customer.id,
        {
            "invoice_settings": {
                "default_payment_method": client.v1.payment_methods.attach("pm_card_visa", {"customer": customer.id}).id
            }
        },
    )
    product = client.v1.products.create({"name": name}).id
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "product": product,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [{"up_to": 100, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": Decimal("0.5")}],
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    seat = client.v1.prices.create(
        {"currency": "usd", "product": product, "unit_amount": 900, "recurring": {"interval": "month"}}
    )
    client.v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id}, {"price": seat.id, "quantity": 2}]})
    server.admin("clock", {"now": int(end.timestamp()) - 60})
    assert gateway.send(_event(name, customer.id, value=301, at=end - timedelta(seconds=61))) == Delivered()
    server.admin("clock", {"now": int(end.timestamp()) + 1})
    assert [one for one in gateway.final_usage(start) if one.customer_id == customer.id] == []
    server.admin("clock", {"now": int(end.timestamp()) + 3_601})
    (found,) = [one for one in gateway.final_usage(start) if one.customer_id == customer.id]
    assert (found.meter, found.quantity, found.starts_at, found.ends_at) == (name, 301, start, end)
    assert end < found.finalized_at <= end + HOUR + timedelta(seconds=1)
    assert list(gateway.final_usage(end + HOUR * 3)) == []
