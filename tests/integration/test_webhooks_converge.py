"""What Stripe tells of its objects, repeated and in any order, leaves what Stripe holds."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from control_plane.subscriptions import service
from control_plane.subscriptions.views import CreateOrder
from control_plane.webhooks.messages import stripe_message
from control_plane.webhooks.worker import Worker
from runtime import postgres
from runtime.settings import Settings
from store import inbox
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.pipeline import wait_until
from tests.integration.selling import ACTOR, CARD, Shop, shop


@pytest.fixture(scope="module")
def sold(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(migrated, tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture(scope="module")
def connection(sold: Shop) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(sold.settings, autocommit=True) as connection:
        yield connection


def work(sold: Shop, connection: psycopg.Connection[Any]) -> None:
    while Worker(sold.parts).turn(connection, threading.Event()):
        pass


@contextmanager
def told(sold: Shop) -> Iterator[None]:
    """Stripe posts its events to a real server of ours, shuffled and many of them twice, while the block runs."""
    client = sold.stripe.client()
    made = client.v1.webhook_endpoints.create({"url": "http://127.0.0.1:9/", "enabled_events": ["*"]})
    settings = sold.settings.model_copy(update={"stripe_webhook_secret": SecretStr(str(made.secret))})
    with control_plane_served(settings) as server:
        client.v1.webhook_endpoints.update(made.id, {"url": f"{server.base_url}/api/webhooks/stripe".replace("//api", "/api")})
        sold.stripe.admin("faults", {"webhook_repeat": 0.4, "webhook_wait_ms": 40, "seed": 7})
        try:
            yield
        finally:
            sold.stripe.admin("faults", {})
            client.v1.webhook_endpoints.delete(made.id)


def subscribed(sold: Shop) -> tuple[str, Any]:
    tenant_id = sold.tenant()
    service.create(sold.units, sold.provider, tenant_id, CreateOrder("studio", currency="usd", payment_method_id=CARD), ACTOR)
    (there,) = sold.at_stripe(tenant_id)
    return tenant_id, there


def lived(sold: Shop, there: Any) -> None:
    """Somebody changes things at Stripe itself."""
    client = sold.stripe.client().v1
    seats = next(item for item in there["items"].data if item.price.recurring.usage_type == "licensed")
    client.subscription_items.update(seats.id, {"quantity": 4})
    second = client.payment_methods.attach("pm_card_visa", {"customer": there.customer})
    client.customers.update(there.customer, {"name": "Renamed at Stripe"})
    client.subscriptions.update(there.id, {"cancel_at_period_end": True})
    client.subscriptions.update(there.id, {"cancel_at_period_end": False})
    client.payment_methods.detach(second.id)
    client.subscriptions.cancel(there.id, {})


def events_of(sold: Shop, there: Any) -> list[bytes]:
    """Stripe's own record of what happened to the customer and the subscription."""
    listed = [json.dumps(event.to_dict(), default=str) for event in sold.stripe.client().v1.events.list({"limit": 100}).data]
    return [told_of.encode() for told_of in listed if there.id in told_of or there.customer in told_of]


def standing(sold: Shop, tenant_id: str) -> Any:
    """Everything that converges, without when it was seen."""
    return (
        sold.rows("SELECT status, quantity, cancel_at_period_end, ended_at FROM subscriptions WHERE tenant_id = %s", tenant_id),
        sold.rows("SELECT invoice_id, status, total FROM invoices WHERE tenant_id = %s ORDER BY 1", tenant_id),
        sold.rows("SELECT plan_id, subscription_status FROM tenants WHERE tenant_id = %s", tenant_id),
    )


def test_what_is_done_at_stripe_itself_arrives_shuffled_and_twice_and_stands_here(
    sold: Shop, connection: psycopg.Connection[Any]
) -> None:
    with told(sold):
        tenant_id, there = subscribed(sold)
        lived(sold, there)
        wanted = {json.loads(event)["id"] for event in events_of(sold, there)}

        def arrived() -> bool:
            work(sold, connection)
            return wanted <= {row.name.message_id for row in inbox.listed(connection, "stripe", "done", 500)}

        wait_until("every webhook arrived", arrived)
        work(sold, connection)
    counts = connection.execute(
        "SELECT count(*) FILTER (WHERE done_at IS NULL), count(*) FILTER (WHERE kind LIKE 'customer.subscription.%%') FROM inbox"
    ).fetchone()
    assert counts is not None
    assert counts[0] == 0, [row.last_error for row in inbox.listed(connection, "stripe", "waiting", 20)]
    assert counts[1] >= 5
    ((status, quantity, ending, ended_at),), invoices, ((_, governs),) = standing(sold, tenant_id)
    assert (status, quantity, ending, governs) == ("canceled", 4, False, "canceled")
    assert ended_at is not None
    there_are = sold.stripe.client().v1.invoices.list({"customer": there.customer}).data
    assert [(one[0], one[1], one[2]) for one in invoices] == sorted((one.id, one.status, one.total) for one in there_are)


@hypothesis_settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_of_stripes_events_leaves_the_same(
    sold: Shop, connection: psycopg.Connection[Any], shuffled: random.Random
) -> None:
    connection.execute("TRUNCATE inbox")
    tenant_id, there = subscribed(sold)
    lived(sold, there)
    events = events_of(sold, there)
    seen = events + shuffled.choices(events, k=len(events) // 2)
    shuffled.shuffle(seen)
    for body in seen:
        message = stripe_message(body)
        # As if each repeat were news: the inbox would keep only the first.
        name = inbox.Name("stripe", "", False, f"{message.id}-{shuffled.random()}")
        inbox.put(connection, name, message.kind, message.subject, dict(message.kept))
        if shuffled.random() < 0.5:
            work(sold, connection)
    work(sold, connection)
    assert {row.state for row in inbox.listed(connection, "stripe", None, 500)} == {"done"}
    ((status, quantity, ending, ended_at),), invoices, ((_, governs),) = standing(sold, tenant_id)
    assert (status, quantity, ending, governs, ended_at is not None) == ("canceled", 4, False, "canceled", True)
    there_are = sold.stripe.client().v1.invoices.list({"customer": there.customer}).data
    assert [(one[0], one[1], one[2]) for one in invoices] == sorted((one.id, one.status, one.total) for one in there_are)
