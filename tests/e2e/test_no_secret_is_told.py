"""Secrets, keys, tokens and what is on a card are planted everywhere; afterwards they are in no log, no answer and no table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg import sql
from pydantic import SecretStr

from runtime.postgres import connect
from runtime.settings import Settings
from store.service_secrets import create
from tests.e2e.seed_operations import seed
from tests.fakes.tokens import clerk_token, signed_with_the_public_key, user_token
from tests.fakes.webhook_senders import clerk_headers, stripe_event, stripe_header
from tests.integration.selling import CARD, shop
from tests.integration.serving import Server, serving

PLANTED = {
    "jwt_access_secret": "planted-jwt-secret-0123456789abcdef",
    "secret_encrypt_key": "planted-encrypt-key-0123456789abcdef",
    "stripe_webhook_secret": "whsec_planted-stripe-0123456789",
    "clerk_webhook_secret": "whsec_" + "cGxhbnRlZC1jbGVyay1zZWNyZXQtMDEyMw==",
    "lago_webhook_secret": "planted-lago-hmac-0123456789",
    "lago_api_key": "planted-lago-key-0123456789",
    "clerk_secret_key": "sk_planted_clerk_0123456789",
    "forget_key": "planted-forget-key-0123456789abcdef0123",
}
NUMBER, FINGERPRINT, HOLDER = "4242424242424242", "PlantedFingerprint", "Planted Holder"
WRONG_SECRET = "planted-wrong-service-secret-0123456789"
WRONG_KEY = "sk_plantedwrongapikey0123456789abcdef"
SENT = "planted-in-a-field-that-there-is-not"


@pytest.fixture(scope="module")
def settings_with_plants(settings: Settings) -> Settings:
    secrets = {name: SecretStr(value) for name, value in PLANTED.items()}
    return settings.model_copy(update={**secrets, "clerk_issuer": "https://clerk.example", "log_level": "debug"})


@pytest.fixture(scope="module")
def served(settings_with_plants: Settings, migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with shop(settings_with_plants, tmp_path_factory.mktemp("stripe")) as sold:
        with connect(sold.settings) as connection:
            secret = create(connection, "operator", ["*"], "test")
        with serving(sold.settings, secret=secret, role="control-plane") as server:
            yield sold, server, secret


def everything(server: Server, sold: Any, secret: str) -> list[httpx.Response]:
    """Right and wrong calls, each with something planted."""
    client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20)
    right = {"X-Service-Secret": secret}
    tenant_id = sold.tenant()
    own = {"organization_id": tenant_id, "plan_id": "studio", "currency": "usd", "payment_method_id": CARD}
    card = {"id": "pm_1", "card": {"number": NUMBER, "fingerprint": FINGERPRINT}, "billing_details": {"name": HOLDER}}
    event = stripe_event("evt_planted", "payment_method.attached", card)
    clerk = json.dumps({"type": "session.created", "data": {"id": "sess_1", "token": SENT}}).encode()
    clerk_secret = PLANTED["clerk_webhook_secret"]
    now = int(time.time())
    stripe_signed = {"Stripe-Signature": stripe_header(event, PLANTED["stripe_webhook_secret"], now)}
    admin = user_token("admin", secret=PLANTED["jwt_access_secret"], role="admin", tenantId=tenant_id)
    answers = [
        client.post("/api/subscriptions", json=own, headers=right),
        client.post("/api/subscriptions", json={**own, "card_number": NUMBER, "token": SENT}, headers=right),
        client.post("/api/subscriptions", content=f'{{"organization_id": "{NUMBER}"'.encode(), headers=right),
        client.post("/api/payment-methods", json={"organization_id": tenant_id, "payment_method_id": NUMBER}, headers=right),
        client.get("/api/plans", headers={"X-Service-Secret": WRONG_SECRET}),
        client.get("/api/plans", headers={"Authorization": f"Bearer {WRONG_KEY}"}),
        client.get("/api/plans", headers={"Authorization": f"Bearer {signed_with_the_public_key()}"}),
        client.get("/api/plans", headers={"Authorization": f"Bearer {clerk_token('org_1', expires_s=-100)}"}),
        client.get("/api/audit", headers={"Authorization": f"Bearer {admin}"}),
        client.get("/api/invoices/in_nothing", params={"token": SENT}, headers=right),
        client.get("/api/audit", params={"cursor": SENT}, headers=right),
        client.post("/api/promo-codes", json={"code": "PLANTED", "percent_off": 10, "secret": SENT}, headers=right),
        client.post("/api/promo-codes", json={"code": "PLANTED", "percent_off": 10}, headers=right),
        client.post("/api/webhooks/stripe", content=event, headers=stripe_signed),
        client.post("/api/webhooks/stripe", content=event, headers={"Stripe-Signature": f"t={now},v1={'0' * 64}"}),
        client.post("/api/webhooks/stripe", content=NUMBER.encode(), headers={"Stripe-Signature": SENT}),
        client.post("/api/webhooks/clerk", content=clerk, headers=clerk_headers(clerk, clerk_secret, now)),
        client.post("/api/webhooks/lago", content=clerk, headers={"X-Lago-Signature": PLANTED["lago_api_key"]}),
    ]
    sold.stripe.admin("faults", {"rates": {"error": 1.0}, "seed": 1})
    answers.append(client.post("/api/subscriptions", json={**own, "organization_id": sold.tenant()}, headers=right))
    sold.stripe.admin("faults", {})
    # An answer that nobody could read: Stripe is not there at all.
    sold.stripe.stop()
    answers.append(client.post("/api/subscriptions", json={**own, "organization_id": sold.tenant()}, headers=right))
    client.close()
    return answers


@seed("003", "POST /api/webhooks/stripe", "bad input")
@seed("003", "POST /api/subscriptions", "bad input")
def test_what_is_planted_is_in_no_log_no_answer_and_no_table(served: Any, tmp_path: Path) -> None:
    sold, server, secret = served
    answers = everything(server, sold, secret)
    statuses = [answer.status_code for answer in answers]
    assert {200, 201, 400, 401, 503} <= set(statuses), statuses
    assert 500 not in statuses, [answer.text for answer in answers if answer.status_code == 500]
    planted = [*PLANTED.values(), sold.stripe.key, secret, NUMBER, FINGERPRINT, HOLDER, WRONG_SECRET, WRONG_KEY, SENT]
    planted += [part.strip() for answer in answers for part in _credentials(answer)]
    told = [("an answer", answer.text) for answer in answers] + [("a log", line) for line in server.lines]
    told += [("a header", str(answer.headers)) for answer in answers]
    told += [(table, row) for table, row in _rows(sold.settings)]
    assert len(server.lines) > 20
    found = {(where, text[:400]) for where, text in told for one in planted for form in _forms(one) if form in text}
    assert found == set()


def _credentials(answer: httpx.Response) -> list[str]:
    token = answer.request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    # Of a token its signature: what stands before it is no secret.
    return [token.rpartition(".")[2]] if token.count(".") == 2 else []


def _forms(text: str) -> list[str]:
    """As it is, and as Postgres shows bytes."""
    return [text, text.encode().hex()] if text else []


def _rows(settings: Settings) -> list[tuple[str, str]]:
    with connect(settings) as connection:
        tables = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'").fetchall()
        return [
            (f"the table {table}", row)
            for (table,) in tables
            for (row,) in connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))).fetchall()
        ]
