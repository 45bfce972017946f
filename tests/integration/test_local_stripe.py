"""The local Stripe as the official SDK sees it. Raw HTTP is used only for what the SDK cannot be made to send."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import stripe

from tests.fakes.local_stripe_server import KEY, LocalStripeServer

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


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An event name of the test's own."""
    return f"units_{abs(hash(request.node.nodeid)) % 10**12}"


def _meter(client: stripe.StripeClient, name: str, formula: str = "last") -> Any:
    return client.v1.billing.meters.create(
        {
            "display_name": "Units",
            "event_name": name,
            "default_aggregation": {"formula": formula},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    )


def _send(client: stripe.StripeClient, name: str, customer: str, value: object, at: int, identifier: str) -> Any:
    return client.v1.billing.meter_events.create(
        {
            "event_name": name,
            "identifier": identifier,
            "timestamp": at,
            "payload": {"stripe_customer_id": customer, "value": str(value)},
        }
    )


def _total(client: stripe.StripeClient, meter: str, customer: str, start: int, end: int) -> object:
    data = client.v1.billing.meters.event_summaries.list(meter, {"customer": customer, "start_time": start, "end_time": end}).data
    return data[0].aggregated_value if data else None


def _raw(server: LocalStripeServer, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {KEY}"} | headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_the_newest_timestamp_wins_in_a_last_meter_and_the_end_is_outside(client: stripe.StripeClient, name: str) -> None:
    meter, customer = _meter(client, name), client.v1.customers.create({}).id
    midnight = NOW // 86_400 * 86_400
    _send(client, name, customer, 7, midnight + 120, f"{name}-late")
    _send(client, name, customer, 5, midnight + 60, f"{name}-early")
    _send(client, name, customer, 99, midnight + 180, f"{name}-after")
    assert _total(client, meter.id, customer, midnight, midnight + 180) == 7
    assert _total(client, meter.id, customer, midnight, midnight + 120) == 5
    assert _total(client, meter.id, customer, midnight + 180, midnight + 240) == 99
    assert _total(client, meter.id, customer, midnight, midnight + 60) is None


def test_fifteen_digits_come_back_exactly(client: stripe.StripeClient, name: str) -> None:
    meter, customer = _meter(client, name), client.v1.customers.create({}).id
    _send(client, name, customer, 999_999_999_999_999, NOW, f"{name}-1")
    assert _total(client, meter.id, customer, NOW, NOW + 60) == 999_999_999_999_999


def test_a_sum_meter_takes_negative_values_and_groups_by_day(client: stripe.StripeClient, name: str) -> None:
    meter, customer = _meter(client, name, "sum"), client.v1.customers.create({}).id
    midnight = NOW // 86_400 * 86_400
    for number, (value, at) in enumerate([(10, NOW), (-3, NOW + 1), (5, NOW - 86_400)]):
        _send(client, name, customer, value, at, f"{name}-{number}")
    days = client.v1.billing.meters.event_summaries.list(
        meter.id,
        {"customer": customer, "start_time": midnight - 86_400, "end_time": midnight + 86_400, "value_grouping_window": "day"},
    )
    assert [(day.start_time, day.aggregated_value) for day in days.data] == [(midnight, 7), (midnight - 86_400, 5)]


def test_a_duplicate_identifier_is_refused_with_stripes_words_and_no_retry(client: stripe.StripeClient, name: str) -> None:
    _meter(client, name)
    customer = client.v1.customers.create({}).id
    _send(client, name, customer, 5, NOW, f"{name}-1")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        _send(client, name, customer, 5, NOW, f"{name}-1")
    assert caught.value.http_status == 400
    assert caught.value.user_message == f"An event already exists with identifier {name}-1."
    headers = caught.value.headers
    assert headers is not None
    assert headers["stripe-should-retry"] == "false"
    assert headers["request-id"].startswith("req_")


def test_unknown_customers_meters_and_bad_times_are_named(
    server: LocalStripeServer, client: stripe.StripeClient, name: str
) -> None:
    meter, customer = _meter(client, name), client.v1.customers.create({}).id
    gone = client.v1.customers.create({}).id
    client.v1.customers.delete(gone)
    for number, (event_name, who, value, at, why) in enumerate(
        [
            (name, "cus_nobody", "1", NOW, "No such customer: 'cus_nobody'"),
            (name, gone, "1", NOW, f"No such customer: '{gone}'"),
            ("no_such_meter", customer, "1", NOW, "No meter has this event name"),
            (name, customer, "1.5", NOW, "15 digits"),
            (name, customer, "1" * 16, NOW, "15 digits"),
            (name, customer, "1", NOW - 36 * 86_400, "35 days"),
            (name, customer, "1", NOW + 301, "5 minutes"),
        ]
    ):
        with pytest.raises(stripe.InvalidRequestError, match=why):
            _send(client, event_name, who, value, at, f"{name}-{number}")
    client.v1.billing.meters.deactivate(meter.id)
    with pytest.raises(stripe.InvalidRequestError, match="not active"):
        _send(client, name, customer, 1, NOW, f"{name}-archived")
    client.v1.billing.meters.reactivate(meter.id)
    _send(client, name, customer, 1, NOW, f"{name}-again")
    with pytest.raises(stripe.InvalidRequestError, match="minute boundary"):
        _total(client, meter.id, customer, NOW + 1, NOW + 60)


def test_only_the_display_name_of_a_meter_changes_and_its_event_name_is_taken_once(
    client: stripe.StripeClient, name: str
) -> None:
    meter = _meter(client, name)
    assert client.v1.billing.meters.update(meter.id, {"display_name": "Other"}).display_name == "Other"
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: event_name"):
        client.v1.billing.meters.update(meter.id, {"event_name": "x"})  # type: ignore[arg-type]
    with pytest.raises(stripe.InvalidRequestError, match="already has the event name"):
        _meter(client, name)


def test_one_event_at_a_time_for_a_customer_and_meter(server: LocalStripeServer, client: stripe.StripeClient, name: str) -> None:
    _meter(client, name)
    customers = [client.v1.customers.create({}).id for _ in range(2)]
    server.admin("faults", {"latency_ms": 400})
    together = threading.Barrier(3)

    def send(number: int) -> str:
        together.wait()
        try:
            _send(client, name, customers[number // 2], number, NOW + number, f"{name}-{number}")
        except stripe.RateLimitError as error:
            return str(error.error and error.error.code)
        return "taken"

    with ThreadPoolExecutor(3) as pool:
        statuses = list(pool.map(send, range(3)))
    assert sorted(statuses[:2]) == ["lock_timeout", "taken"]
    assert statuses[2] == "taken"


def test_an_idempotency_key_makes_one_object_and_refuses_another_body(client: stripe.StripeClient, name: str) -> None:
    first = client.v1.customers.create({"name": "a"}, {"idempotency_key": name})
    again = client.v1.customers.create({"name": "a"}, {"idempotency_key": name})
    assert again.id == first.id
    assert again.last_response is not None
    assert again.last_response.headers["idempotent-replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create({"name": "b"}, {"idempotency_key": name})


def test_lists_page_newest_first_and_the_sdk_walks_them(client: stripe.StripeClient, name: str) -> None:
    made = [client.v1.customers.create({"email": f"{name}@example.com", "metadata": {"n": str(n)}}).id for n in range(7)]
    found = client.v1.customers.list({"limit": 3, "email": f"{name}@example.com"})
    assert [customer.id for customer in found.data] == made[:3:-1]
    assert found.has_more
    assert [customer.id for customer in found.auto_paging_iter()] == made[::-1]
    before = client.v1.customers.list({"limit": 2, "ending_before": made[0], "email": f"{name}@example.com"})
    assert [customer.id for customer in before.data] == [made[2], made[1]]
    assert not client.v1.customers.list({"limit": 3, "starting_after": made[3], "email": f"{name}@example.com"}).has_more
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        client.v1.customers.list({"starting_after": "cus_nobody"})
    with pytest.raises(stripe.InvalidRequestError, match="limit"):
        client.v1.customers.list({"limit": 101})


def test_a_wrong_key_is_401_and_shows_no_more_of_it_than_its_ends(server: LocalStripeServer) -> None:
    wrong = "sk_test_wrong_and_quite_long_0123"
    with pytest.raises(stripe.AuthenticationError) as caught:
        server.client(wrong).v1.customers.list()
    assert caught.value.http_status == 401
    assert "wrong_and" not in str(caught.value)


def test_garbage_gets_an_error_in_stripes_shape_and_the_server_goes_on(
    server: LocalStripeServer, client: stripe.StripeClient
) -> None:
    form = "application/x-www-form-urlencoded"
    for status, method, path, body, headers in [
        (400, "POST", "/v1/customers", b"name=%ff", {"Content-Type": form}),
        (400, "POST", "/v1/customers", b"name=%00", {"Content-Type": form}),
        (400, "POST", "/v1/customers", b"name[=1", {"Content-Type": form}),
        (400, "POST", "/v1/customers", b"nmae=1", {"Content-Type": form}),
        (400, "POST", "/v1/customers", b"{}", {"Content-Type": "application/json"}),
        (400, "POST", "/v1/billing/meter_events", b"", {}),
        (400, "POST", "/v1/billing/meter_events", b"event_name[a]=1&payload=1", {}),
        (400, "POST", "/v1/customers", b"", {"Idempotency-Key": "k" * 256}),
        (400, "GET", "/v1/customers?limit=many", b"", {}),
        (400, "GET", "/v1/customers", b"", {"Stripe-Version": "yesterday"}),
        (404, "GET", "/v1/charges", b"", {}),
        (404, "PUT", "/v1/customers", b"", {}),
        (404, "GET", "/v1/customers/..%2f..%2fetc", b"", {}),
        (413, "POST", "/v1/customers", b"x" * ((1 << 20) + 1), {"Content-Type": form}),
    ]:
        got, document = _raw(server, method, path, body, **headers)
        assert (got, document["error"]["type"]) == (status, "invalid_request_error"), (method, path, document)
        assert document["error"]["message"]
    assert client.v1.customers.create({}).id.startswith("cus_")


def test_the_admin_paths_want_the_key_and_say_what_they_take(server: LocalStripeServer) -> None:
    assert _raw(server, "GET", "/__local/health", Authorization="") == (200, {"status": "ok"})
    assert _raw(server, "POST", "/__local/clock", b"{}", Authorization="Bearer sk_test_other")[0] == 401
    for body in (b"[]", b"{", b'{"now": "x"}', b'{"now": -1}', b'{"now": true}', b'{"then": 1}', b'{"now": 1, "advance": 1}'):
        assert _raw(server, "POST", "/__local/clock", body)[0] == 400
    assert _raw(server, "POST", "/__local/faults", b'{"explode": 1}')[0] == 400


def test_nothing_answered_is_lost_when_it_is_killed(tmp_path: Path) -> None:
    with LocalStripeServer(tmp_path) as server:
        client = server.client()
        server.admin("clock", {"now": NOW})
        meter = _meter(client, "units", "sum")
        customers = [client.v1.customers.create({}).id for _ in range(4)]
        answered: list[tuple[str, int]] = []
        enough = threading.Event()

        def send(worker: int) -> None:
            number = 0
            while True:
                number += 1
                try:
                    _send(client, "units", customers[worker], number, NOW, f"{worker}-{number}")
                except stripe.APIConnectionError:
                    return
                answered.append((customers[worker], number))
                if len(answered) >= 100:
                    enough.set()

        with ThreadPoolExecutor(4) as pool:
            for worker in range(4):
                pool.submit(send, worker)
            assert enough.wait(60)
            server.stop(signal.SIGKILL)
        server.start()
        client = server.client()
        for customer in customers:
            sent = [number for who, number in answered if who == customer]
            held = _total(client, meter.id, customer, NOW, NOW + 60)
            # the one that was in flight may have been stored without its answer
            assert held in (sum(sent), sum(sent) + len(sent) + 1)
        # clock and account outlive the process
        assert server.admin("clock", {"advance": 1})["now"] == NOW + 1


def test_it_stops_at_sigterm_with_status_0(tmp_path: Path) -> None:
    server = LocalStripeServer(tmp_path)
    server.start()
    assert server.client().v1.accounts.retrieve_current().id.startswith("acct_")
    assert server.stop(signal.SIGTERM) == 0
