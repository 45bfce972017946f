"""An organization that is billed by Lago: subscribed here, told of by Lago's webhooks, the same rows as with Stripe."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from control_plane.parts import Parts, parts_of
from control_plane.refusals import Refusal
from control_plane.subscriptions import service
from control_plane.subscriptions.views import CreateOrder, UpdateOrder
from control_plane.webhooks.worker import Worker
from runtime import postgres
from runtime.settings import Settings
from store import inbox
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.local_lago_server import KEY, LocalLago, local_lago
from tests.integration.provider_suite import NOW
from tests.integration.selling import ACTOR

HMAC = "the-hmac-key-of-the-endpoint"


@pytest.fixture(scope="module")
def lago() -> Iterator[LocalLago]:
    with local_lago(NOW) as lago:
        lago.plan("studio-monthly-usd", 4900)
        lago.plan("agency-monthly-usd", 19900)
        yield lago


@pytest.fixture(scope="module")
def configured(migrated: Settings, lago: LocalLago) -> Settings:
    return migrated.model_copy(
        update={
            "payment_provider": "lago",
            "lago_api_url": lago.url,
            "lago_api_key": SecretStr(KEY),
            "lago_webhook_secret": SecretStr(f"another, {HMAC}"),
        }
    )


@pytest.fixture(scope="module")
def connection(configured: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(configured, autocommit=True) as connection:
        connection.execute("INSERT INTO plans (plan_id, name, currency) VALUES ('studio', 'S', 'usd'), ('agency', 'A', 'usd')")
        connection.execute(
            "INSERT INTO plan_prices VALUES ('studio', 'usd', 'monthly', 4900), ('agency', 'usd', 'monthly', 19900)"
        )
        connection.execute("INSERT INTO tenants (tenant_id, name, anchor_day) VALUES ('tnt_1', 'Northlight', 15)")
        yield connection


@pytest.fixture(scope="module")
def parts(configured: Settings) -> Iterator[Parts]:
    parts = parts_of(configured)
    yield parts
    parts.units.close()


@pytest.fixture(scope="module")
def client(configured: Settings, connection: psycopg.Connection[Any]) -> Iterator[httpx.Client]:
    with control_plane_served(configured) as client:
        yield client


def told(client: httpx.Client, parts: Parts, connection: psycopg.Connection[Any], body: bytes, headers: dict[str, str]) -> None:
    for _ in range(2):
        assert client.post("/api/webhooks/lago", content=body, headers=headers).is_success
    while Worker(parts).turn(connection, threading.Event()):
        pass
    assert [row.last_error for row in inbox.listed(connection, "lago", "waiting", 9)] == []


def test_an_organization_is_subscribed_moved_up_and_ended_at_lago(
    lago: LocalLago, client: httpx.Client, parts: Parts, connection: psycopg.Connection[Any]
) -> None:
    order = CreateOrder("studio", currency="usd")
    made = service.create(parts.units, parts.provider, "tnt_1", order, ACTOR)
    assert (made.status, made.plan_id, made.billing_cycle) == ("active", "studio", "monthly")
    assert lago.customers["tnt_1"]["name"] == "Northlight"
    assert connection.execute("SELECT plan_id, subscription_status FROM tenants").fetchone() == ("studio", "active")
    moved = service.update(parts.units, parts.provider, made.id, UpdateOrder(plan_id="agency"), lambda _: None, ACTOR)
    assert (moved.plan_id, moved.status) == ("agency", "active")

    invoice = lago.invoices[-1]
    told(client, parts, connection, *lago.webhook("invoice.created", "invoice", invoice, secret=HMAC))
    rows = connection.execute(
        "SELECT provider, status, total FROM invoices WHERE invoice_id = %s", (invoice["lago_id"],)
    ).fetchall()
    assert rows == [("lago", "open", 19900)]
    invoice["payment_status"] = "succeeded"
    told(client, parts, connection, *lago.webhook("invoice.payment_status_updated", "invoice", invoice, secret=HMAC))
    assert connection.execute("SELECT status FROM invoices WHERE invoice_id = %s", (invoice["lago_id"],)).fetchone() == ("paid",)

    subscription = lago.subscriptions[-1]
    subscription |= {"status": "terminated", "terminated_at": "2026-11-21T13:00:00Z"}
    told(client, parts, connection, *lago.webhook("subscription.terminated", "subscription", subscription, secret=HMAC))
    assert connection.execute("SELECT subscription_status FROM tenants").fetchone() == ("canceled",)


def test_what_lago_lacks_is_refused_with_what_to_do_instead(parts: Parts, connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ('tnt_2', 'Southlight')")
    with pytest.raises(Refusal) as refusal:
        service.create(parts.units, parts.provider, "tnt_2", CreateOrder("studio", currency="usd", trial_days=14), ACTOR)
    assert (refusal.value.kind, refusal.value.code) == ("precondition", "unsupported_by_provider")
    with pytest.raises(Refusal) as refusal:
        service.create(parts.units, parts.provider, "tnt_2", CreateOrder("studio", currency="eur"), ACTOR)
    assert refusal.value.code == "plan_not_priced"


def test_a_wrong_signature_of_lago_is_refused(client: httpx.Client, lago: LocalLago) -> None:
    body, headers = lago.webhook("customer.created", "customer", {"external_id": "tnt_1"}, secret="wrong")
    assert client.post("/api/webhooks/lago", content=body, headers=headers).json()["error"]["code"] == "wrong_signature"
