"""Webhooks of the local Stripe at a real receiver: signed as the SDK wants them, tried again, repeated, out of order."""

from __future__ import annotations

import http.server
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.fakes.local_stripe_server import LocalStripeServer
from tests.fakes.pipeline import wait_until


class Receiver:
    """Answers as it is told, and remembers what came."""

    def __init__(self) -> None:
        self.status = 200
        self.came: list[tuple[bytes, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.came.append((body, str(self.headers["Stripe-Signature"])))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on standard error."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kinds(self, secret: str) -> list[str]:
        """What came, each verified by the SDK."""
        return [str(stripe.Webhook.construct_event(body, signature, secret).type) for body, signature in self.came]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


@pytest.fixture
def client(server: LocalStripeServer) -> Iterator[stripe.StripeClient]:
    made = server.client()
    yield made
    server.admin("faults", {})
    for endpoint in made.v1.webhook_endpoints.list().data:
        made.v1.webhook_endpoints.delete(endpoint.id)


def endpoint(client: stripe.StripeClient, receiver: Receiver, *kinds: str) -> Any:
    wanted: Any = list(kinds)
    return client.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": wanted})


def test_an_event_arrives_signed_and_only_where_it_is_wanted(client: stripe.StripeClient, receiver: Receiver) -> None:
    made = endpoint(client, receiver, "customer.created", "customer.deleted")
    customer = client.v1.customers.create({"name": "Ada"})
    client.v1.customers.update(customer.id, {"name": "Bea"})
    client.v1.customers.delete(customer.id)
    wait_until("both came", lambda: len(receiver.came) == 2)
    assert sorted(receiver.kinds(made.secret)) == ["customer.created", "customer.deleted"]
    with pytest.raises(stripe.SignatureVerificationError):
        receiver.kinds("whsec_another")


def test_what_is_not_taken_comes_again(client: stripe.StripeClient, receiver: Receiver) -> None:
    made = endpoint(client, receiver, "customer.created")
    receiver.status = 500
    client.v1.customers.create({})
    wait_until("it came once", lambda: len(receiver.came) == 1)
    receiver.status = 200
    wait_until("it came again", lambda: len(receiver.came) == 2)
    assert receiver.came[0][0] == receiver.came[1][0]
    assert receiver.kinds(made.secret) == ["customer.created"] * 2


def test_webhooks_can_be_repeated_and_shuffled_on_purpose(
    server: LocalStripeServer, client: stripe.StripeClient, receiver: Receiver
) -> None:
    endpoint(client, receiver, "customer.created", "customer.updated")
    server.admin("faults", {"webhook_repeat": 0.5, "webhook_wait_ms": 300, "seed": 3})
    for number in range(8):
        client.v1.customers.create({"name": str(number)})
    wait_until("all came, some twice", lambda: len(receiver.came) > 8 and len({body for body, _ in receiver.came}) == 8)
    server.admin("faults", {})
    first_seen = list(dict.fromkeys(body for body, _ in receiver.came))
    made_in_order = [event.id for event in reversed(client.v1.events.list({"limit": 8}).data)]
    arrived = [next(event for event in made_in_order if event.encode() in body) for body in first_seen]
    assert sorted(arrived) == sorted(made_in_order)
    assert arrived != made_in_order


def test_a_meter_event_found_wrong_is_told_by_a_thin_event(client: stripe.StripeClient, receiver: Receiver) -> None:
    kind = "v1.billing.meter.error_report_triggered"
    destination = client.v2.core.event_destinations.create(
        {
            "name": "meters",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": [kind],
            "webhook_endpoint": {"url": receiver.url},
            "include": ["webhook_endpoint.signing_secret"],
        }
    )
    assert destination.webhook_endpoint is not None
    secret = destination.webhook_endpoint.signing_secret
    assert secret is not None
    meter = client.v1.billing.meters.create(
        {"display_name": "U", "event_name": "thin", "default_aggregation": {"formula": "sum"}}
    )
    customer = client.v1.customers.create({}).id
    client.v1.billing.meter_events.create(
        {"event_name": "thin", "identifier": "thin-1", "payload": {"stripe_customer_id": customer, "value": "1"}},
        {"headers": {"X-Local-Fault": "reject"}},
    )
    wait_until("it came", lambda: receiver.came)
    body, signature = receiver.came[0]
    notice = client.parse_event_notification(body, signature, secret)
    assert notice.type == kind
    event: Any = client.v2.core.events.retrieve(notice.id)
    assert event.related_object.id == meter.id
    assert event.data.reason.error_types[0].sample_errors[0].request.identifier == "thin-1"
    client.v2.core.event_destinations.delete(destination.id)


def test_events_that_wait_survive_a_kill(server: LocalStripeServer, client: stripe.StripeClient, receiver: Receiver) -> None:
    made = endpoint(client, receiver, "customer.created")
    receiver.status = 503
    client.v1.customers.create({})
    wait_until("it came once", lambda: receiver.came)
    server.stop(signal.SIGKILL)
    receiver.status = 200
    server.start()
    wait_until("it came after the restart", lambda: len(receiver.came) >= 2)
    assert set(receiver.kinds(made.secret)) == {"customer.created"}
    again = server.client()
    again.v1.webhook_endpoints.delete(made.id)
    client.v1 = again.v1  # the address is another one now
