"""Each fault of the local Stripe as the official SDK meets it: by a header for one request, or by rate for many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.fakes.local_stripe_server import LocalStripeServer

NOW = 1_800_000_000 // 86_400 * 86_400 + 43_200


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture
def client(server: LocalStripeServer) -> Iterator[stripe.StripeClient]:
    server.admin("clock", {"now": NOW})
    yield server.client()
    server.admin("faults", {})


class Meter:
    """A meter with a customer."""

    def __init__(self, client: stripe.StripeClient, name: str) -> None:
        self.client, self.name = client, name
        formula: Any = {"formula": "sum"}
        self.id = client.v1.billing.meters.create({"display_name": "U", "event_name": name, "default_aggregation": formula}).id
        self.customer = client.v1.customers.create({}).id

    def send(self, value: int, identifier: str, fault: str | None = None, key: str | None = None) -> Any:
        options: Any = {"headers": {"X-Local-Fault": fault}} if fault else {}
        if key:
            options["idempotency_key"] = key
        payload = {"stripe_customer_id": self.customer, "value": str(value)}
        params: Any = {"event_name": self.name, "identifier": identifier, "timestamp": NOW, "payload": payload}
        return self.client.v1.billing.meter_events.create(params, options)

    def total(self) -> object:
        asked: Any = {"customer": self.customer, "start_time": NOW, "end_time": NOW + 60}
        data = self.client.v1.billing.meters.event_summaries.list(self.id, asked).data
        return data[0].aggregated_value if data else None


@pytest.mark.parametrize("fault", ["drop", "cut"])
def test_an_answer_that_is_lost_was_carried_out(client: stripe.StripeClient, fault: str) -> None:
    meter = Meter(client, f"lost_{fault}")
    with pytest.raises(stripe.APIConnectionError):
        meter.send(5, f"{fault}-1", fault)
    with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier"):
        meter.send(5, f"{fault}-1")
    assert meter.total() == 5


@pytest.mark.parametrize(("fault", "error"), [("rate_limit", stripe.RateLimitError), ("conflict", stripe.APIError)])
def test_what_is_refused_was_not_carried_out(client: stripe.StripeClient, fault: str, error: type[Exception]) -> None:
    meter = Meter(client, f"refused_{fault}")
    with pytest.raises(error):
        meter.send(5, f"{fault}-1", fault)
    assert meter.total() is None
    meter.send(5, f"{fault}-1")
    assert meter.total() == 5


def test_a_500_sticks_to_its_idempotency_key(client: stripe.StripeClient) -> None:
    meter = Meter(client, "sticky")
    for fault in ("error", None):
        with pytest.raises(stripe.APIError) as failed:
            meter.send(5, "sticky-1", fault, key="one key")
        assert failed.value.http_status == 500
    meter.send(5, "sticky-1", key="another key")
    assert meter.total() == 5


def test_a_slow_answer_comes_after_the_client_gave_up_and_was_carried_out(
    server: LocalStripeServer, client: stripe.StripeClient
) -> None:
    meter = Meter(client, "slow")
    server.admin("faults", {"slow_ms": 3_000})
    impatient = stripe.StripeClient(
        server.key,
        base_addresses={"api": server.url},
        http_client=stripe.RequestsClient(timeout=0.5),
        max_network_retries=0,
    )
    meter.client = impatient
    with pytest.raises(stripe.APIConnectionError):
        meter.send(5, "slow-1", "slow")
    meter.client = client
    assert meter.total() == 5


def test_an_event_may_enter_summaries_late(server: LocalStripeServer, client: stripe.StripeClient) -> None:
    meter = Meter(client, "late")
    server.admin("faults", {"aggregation_delay_s": 600})
    meter.send(5, "late-1")
    assert meter.total() is None
    server.admin("clock", {"advance": 599})
    assert meter.total() is None
    server.admin("clock", {"advance": 1})
    assert meter.total() == 5


def test_an_event_may_be_found_wrong_after_it_was_answered(client: stripe.StripeClient) -> None:
    meter = Meter(client, "wrong")
    assert meter.send(5, "wrong-1", "reject").identifier == "wrong-1"
    meter.send(7, "wrong-2")
    assert meter.total() == 7


def test_an_event_can_be_cancelled_within_a_day(server: LocalStripeServer, client: stripe.StripeClient) -> None:
    meter = Meter(client, "cancelled")
    for number in (1, 2):
        meter.send(number, f"cancelled-{number}")
    adjust = client.v1.billing.meter_event_adjustments.create
    found = adjust({"event_name": "cancelled", "type": "cancel", "cancel": {"identifier": "cancelled-1"}})
    assert (found.status, meter.total()) == ("complete", 2)
    server.admin("clock", {"advance": 86_401})
    with pytest.raises(stripe.InvalidRequestError, match="24 hours"):
        adjust({"event_name": "cancelled", "type": "cancel", "cancel": {"identifier": "cancelled-2"}})
    with pytest.raises(stripe.InvalidRequestError, match="No event"):
        adjust({"event_name": "cancelled", "type": "cancel", "cancel": {"identifier": "never"}})


def test_faults_by_rate_are_the_same_for_the_same_seed(server: LocalStripeServer, client: stripe.StripeClient) -> None:
    meter = Meter(client, "by_rate")
    rates = {"drop": 0.2, "error": 0.2, "rate_limit": 0.2}
    runs = []
    for run in range(2):
        server.admin("faults", {"rates": rates, "seed": 7, "path": "/v1/billing/meter_events"})
        seen = []
        for number in range(25):
            try:
                meter.send(1, f"by-rate-{run}-{number}")
                seen.append("ok")
            except stripe.StripeError as error:
                seen.append(type(error).__name__)
        runs.append(seen)
    assert runs[0] == runs[1]
    assert set(runs[0]) == {"ok", "APIConnectionError", "APIError", "RateLimitError"}
    delivered = sum(outcome in ("ok", "APIConnectionError") for seen in runs for outcome in seen)
    server.admin("faults", {})
    assert meter.total() == delivered


def test_a_fault_that_there_is_not_is_refused_by_name(server: LocalStripeServer, client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="drop, cut, error"):
        client.v1.customers.create({}, {"headers": {"X-Local-Fault": "explode"}})
