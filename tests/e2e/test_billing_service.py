"""The billing service over HTTP: plans, subscriptions, invoices, payment methods, through a real socket, by Clerk's roles."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from control_plane.invoices.converging import converge as converge_invoice
from control_plane.provider import observing
from runtime.postgres import connect
from runtime.settings import Settings
from store.service_secrets import create as create_secret
from tests.e2e.seed_operations import seed
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.tokens import ISSUER, ORIGIN, clerk_key, clerk_token, pem_of
from tests.integration.selling import ACTOR, CARD, DECLINED, Shop, shop
from tests.integration.serving import serving

GUIDE = Path(__file__).parents[2] / "docs" / "subscriptions.md"
BODY = {"plan_id": "studio", "billing_cycle": "monthly", "currency": "usd", "payment_method_id": CARD}


@dataclass
class World:
    sold: Shop
    client: httpx.Client
    service_secret: str

    def ask(self, who: tuple[str, str], method: str, path: str, body: object = None, key: str | None = None) -> httpx.Response:
        """As a Clerk member `(organization, role)`."""
        headers = {"Authorization": f"Bearer {clerk_token(*who)}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.client.request(method, path, headers=headers, json=body)

    def subscribed(self, **order: object) -> tuple[str, dict[str, Any]]:
        """(organization, subscription) of a new one."""
        tenant_id = self.sold.tenant()
        made = self.ask((tenant_id, "admin"), "POST", "/api/subscriptions", {"organization_id": tenant_id, **BODY, **order})
        assert made.status_code == 201, made.text
        return tenant_id, made.json()["data"]


@pytest.fixture(scope="module")
def world(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    configured = migrated.model_copy(
        update={
            "clerk_jwt_key": pem_of(clerk_key("one")).replace("\n", "\\n"),
            "clerk_issuer": ISSUER,
            "clerk_authorized_parties": ORIGIN,
            "secret_encrypt_key": SecretStr("a secret of the keyring"),
        }
    )
    with shop(configured, tmp_path_factory.mktemp("stripe")) as sold, control_plane_served(sold.settings) as client:
        with connect(configured) as connection:
            secret = create_secret(connection, "web", ["*"])
        yield World(sold, client, secret)


def code_of(answered: httpx.Response) -> tuple[int, str]:
    return answered.status_code, answered.json()["error"]["code"]


@seed("003", "GET /api/plans", "used", "bad input")
def test_plans_are_listed_page_by_page(world: World) -> None:
    member = (world.sold.tenant(), "member")
    first = world.ask(member, "GET", "/api/plans?limit=2").json()
    assert [plan["id"] for plan in first["data"]] == ["agency", "free"]
    second = world.ask(member, "GET", f"/api/plans?limit=2&cursor={first['page']['nextCursor']}").json()
    assert [plan["id"] for plan in second["data"]] == ["studio"]
    assert second["page"]["nextCursor"] is None
    assert code_of(world.ask(member, "GET", "/api/plans?cursor=made-up")) == (400, "bad_cursor")


@seed("003", "GET /api/plans/{id}", "used", "bad input")
@seed("003", "GET /api/plans/{id}/features", "used", "bad input")
@seed("003", "GET /api/plans/{id}/limits", "used", "bad input")
def test_a_plan_says_what_it_costs_and_grants(world: World) -> None:
    member = (world.sold.tenant(), "member")
    plan = world.ask(member, "GET", "/api/plans/studio").json()["data"]
    assert (plan["name"], plan["currency"]) == ("Studio", "usd")
    assert {"currency": "usd", "billing_cycle": "monthly", "amount": 4900} in plan["prices"]
    features = world.ask(member, "GET", "/api/plans/studio/features").json()["data"]
    assert features == [{"feature": "api", "enabled": True, "description": "Access for programs"}]
    (limit,) = world.ask(member, "GET", "/api/plans/studio/limits").json()["data"]
    assert (limit["usage_type"], limit["limit"], limit["enforce"], limit["overage_price"]) == ("RENDER", 600, "soft", 0.02)
    for path in ("/api/plans/nothing", "/api/plans/nothing/features", "/api/plans/nothing/limits"):
        assert code_of(world.ask(member, "GET", path)) == (404, "not_found")


@seed("003", "POST /api/subscriptions", "used", "repeated")
@seed("003", "GET /api/subscriptions/{organizationId}", "used")
def test_a_subscription_is_made_once_under_its_key_and_every_member_sees_it(world: World) -> None:
    tenant_id, key = world.sold.tenant(), secrets.token_hex(8)
    body = {"organization_id": tenant_id, **BODY}
    made = world.ask((tenant_id, "billing"), "POST", "/api/subscriptions", body, key)
    assert made.status_code == 201, made.text
    again = world.ask((tenant_id, "billing"), "POST", "/api/subscriptions", body, key)
    assert (again.status_code, again.json()) == (201, made.json())
    assert len(world.sold.at_stripe(tenant_id)) == 1
    other = {**body, "plan_id": "agency"}
    assert code_of(world.ask((tenant_id, "billing"), "POST", "/api/subscriptions", other, key)) == (422, "idempotency_key_reused")
    found = world.ask((tenant_id, "member"), "GET", f"/api/subscriptions/{tenant_id}").json()["data"]
    assert found == made.json()["data"]
    assert (found["organization_id"], found["plan_id"], found["billing_cycle"], found["status"]) == (
        tenant_id,
        "studio",
        "monthly",
        "active",
    )
    assert found["current_period_start"].endswith("Z")
    assert found["created_at"].endswith("Z")


@seed("003", "POST /api/subscriptions", "wrong role", "other tenant", "bad input")
def test_who_may_not_subscribe_and_what_cannot_be_sold(world: World) -> None:
    tenant_id, other = world.sold.tenant(), world.sold.tenant()
    body = {"organization_id": tenant_id, **BODY}
    assert code_of(world.ask((tenant_id, "member"), "POST", "/api/subscriptions", body)) == (403, "role_not_allowed")
    assert code_of(world.ask((other, "admin"), "POST", "/api/subscriptions", body)) == (404, "not_found")
    for wrong, expected in (
        ({"billing_cycle": "weekly"}, (400, "invalid_request")),
        ({"quantity": 1.5}, (400, "invalid_request")),
        ({"surprise": 1}, (400, "invalid_request")),
        ({"plan_id": "nothing"}, (400, "unknown_plan")),
        ({"plan_id": "free"}, (400, "plan_not_priced")),
        ({"payment_method_id": None}, (402, "no_payment_method")),
    ):
        found = world.ask((tenant_id, "admin"), "POST", "/api/subscriptions", {**body, **wrong})
        assert code_of(found) == expected, found.text
    assert world.sold.at_stripe(tenant_id) == []


@seed("003", "GET /api/subscriptions/{organizationId}", "wrong role", "other tenant", "bad input")
def test_a_subscription_is_shown_to_its_own_organization_only(world: World) -> None:
    tenant_id, _ = world.subscribed()
    other = world.sold.tenant()
    elsewhere = code_of(world.ask((other, "admin"), "GET", f"/api/subscriptions/{tenant_id}"))
    assert elsewhere == (404, "not_found")
    assert code_of(world.ask((other, "admin"), "GET", "/api/subscriptions/tnt_nobody")) == elsewhere
    assert code_of(world.ask((other, "admin"), "GET", f"/api/subscriptions/{other}")) == (404, "no_subscription")
    assert code_of(world.client.get(f"/api/subscriptions/{tenant_id}")) == (401, "no_credentials")
    seen = world.client.get(f"/api/subscriptions/{tenant_id}", headers={"X-Service-Secret": world.service_secret})
    assert seen.json()["data"]["organization_id"] == tenant_id


@seed("003", "PUT /api/subscriptions/{id}", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_subscription_is_changed_after_a_look_at_what_it_costs(world: World) -> None:
    tenant_id, made = world.subscribed()
    path, key = f"/api/subscriptions/{made['id']}", secrets.token_hex(8)
    change = {"plan_id": "agency", "quantity": 2}
    preview = world.ask((tenant_id, "member"), "POST", f"{path}/preview", change).json()["data"]
    assert preview["currency"] == "usd"
    assert any(line["amount"] < 0 for line in preview["invoices"][0]["lines"])
    assert world.ask((tenant_id, "member"), "GET", f"/api/subscriptions/{tenant_id}").json()["data"] == made
    assert code_of(world.ask((tenant_id, "member"), "PUT", path, change)) == (403, "role_not_allowed")
    assert code_of(world.ask((world.sold.tenant(), "admin"), "PUT", path, change)) == (404, "not_found")
    assert code_of(world.ask((tenant_id, "admin"), "PUT", path, {"proration_behavior": "maybe"})) == (400, "invalid_request")
    assert code_of(world.ask((tenant_id, "admin"), "PUT", "/api/subscriptions/sub_nothing", change)) == (404, "not_found")
    changed = world.ask((tenant_id, "admin"), "PUT", path, change, key)
    assert changed.status_code == 200, changed.text
    assert (changed.json()["data"]["plan_id"], changed.json()["data"]["quantity"]) == ("agency", 2)
    assert world.ask((tenant_id, "admin"), "PUT", path, change, key).json() == changed.json()


@seed("003", "DELETE /api/subscriptions/{id}", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_a_subscription_ends_with_its_period_or_now(world: World) -> None:
    tenant_id, made = world.subscribed()
    path, key = f"/api/subscriptions/{made['id']}", secrets.token_hex(8)
    assert code_of(world.ask((tenant_id, "member"), "DELETE", path)) == (403, "role_not_allowed")
    assert code_of(world.ask((world.sold.tenant(), "admin"), "DELETE", path)) == (404, "not_found")
    assert code_of(world.ask((tenant_id, "admin"), "DELETE", f"{path}?at_period_end=perhaps")) == (400, "invalid_request")
    ending = world.ask((tenant_id, "billing"), "DELETE", path).json()["data"]
    assert (ending["status"], ending["cancel_at_period_end"]) == ("active", True)
    again = world.ask((tenant_id, "billing"), "POST", f"{path}/reactivate").json()["data"]
    assert (again["status"], again["cancel_at_period_end"]) == ("active", False)
    paused = world.ask((tenant_id, "billing"), "POST", f"{path}/pause", {"behavior": "void"}).json()["data"]
    assert paused["pause"] == {"behavior": "void", "resumes_at": None}
    assert world.ask((tenant_id, "billing"), "POST", f"{path}/resume").json()["data"]["pause"] is None
    over = world.ask((tenant_id, "admin"), "DELETE", f"{path}?at_period_end=false", key=key)
    assert over.json()["data"]["status"] == "canceled"
    assert world.ask((tenant_id, "admin"), "DELETE", f"{path}?at_period_end=false", key=key).json() == over.json()
    assert code_of(world.ask((tenant_id, "admin"), "DELETE", path)) == (409, "subscription_over")


@seed("003", "payment methods", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_payment_methods_are_added_chosen_and_taken_away_and_no_card_is_kept(world: World) -> None:
    tenant_id = world.sold.tenant()
    admin, member, key = (tenant_id, "admin"), (tenant_id, "member"), secrets.token_hex(8)
    added = world.ask(admin, "POST", "/api/payment-methods", {"payment_method_id": CARD}, key)
    assert added.status_code == 201, added.text
    first = added.json()["data"]
    assert (first["type"], first["last4"], first["is_default"]) == ("card", "4242", True)
    assert world.ask(admin, "POST", "/api/payment-methods", {"payment_method_id": CARD}, key).json() == added.json()
    second = world.ask(admin, "POST", "/api/payment-methods", {"payment_method_id": "pm_card_amex", "set_default": False})
    page = world.ask(member, "GET", "/api/payment-methods?limit=1").json()
    rest = world.ask(member, "GET", f"/api/payment-methods?limit=1&cursor={page['page']['nextCursor']}").json()
    assert {one["id"] for one in (*page["data"], *rest["data"])} == {first["id"], second.json()["data"]["id"]}
    chosen = world.ask(admin, "PUT", f"/api/payment-methods/{second.json()['data']['id']}/default").json()["data"]
    assert chosen["is_default"] is True
    assert code_of(world.ask(member, "DELETE", f"/api/payment-methods/{first['id']}")) == (403, "role_not_allowed")
    elsewhere = world.ask((world.sold.tenant(), "admin"), "DELETE", f"/api/payment-methods/{first['id']}")
    nothing = world.ask((world.sold.tenant(), "admin"), "DELETE", "/api/payment-methods/pm_nothing")
    assert code_of(elsewhere) == code_of(nothing) == (404, "not_found")
    assert elsewhere.json()["error"]["message"] == nothing.json()["error"]["message"]
    assert code_of(world.ask(admin, "POST", "/api/payment-methods", {"payment_method_id": "4242 4242"})) == (
        400,
        "invalid_request",
    )
    assert code_of(world.ask(admin, "POST", "/api/payment-methods", {"payment_method_id": "pm_nothing"}))[0] in (400, 404)
    assert world.ask(admin, "DELETE", f"/api/payment-methods/{first['id']}").status_code == 200
    assert [one["id"] for one in world.ask(member, "GET", "/api/payment-methods").json()["data"]] == [chosen["id"]]
    kept = world.sold.rows("SELECT to_jsonb(p)::text FROM payment_methods p WHERE tenant_id = %s", tenant_id)
    assert not [row for (row,) in kept if "visa" in row or "2040" in row]


@seed("003", "invoices", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_invoices_are_a_mirror_and_a_preview_adds_up_the_usage_so_far(world: World) -> None:
    tenant_id, made = world.subscribed(quantity=2)
    provider = world.sold.provider
    (there,) = world.sold.at_stripe(tenant_id)
    for invoice in provider.invoices(str(there.customer)).items:
        seen = observing.ticket(world.sold.units, ACTOR)
        with world.sold.units.begin(ACTOR) as unit:
            assert converge_invoice(unit, "stripe", provider.invoice(invoice.id), seen)
            assert not converge_invoice(unit, "stripe", invoice, seen)
    member = (tenant_id, "member")
    (shown,) = world.ask(member, "GET", "/api/invoices").json()["data"]
    assert (shown["id"], shown["status"], shown["currency"]) == (made["latest_invoice_id"], "paid", "usd")
    assert shown["total"] == sum(line["amount"] for line in shown["lines"])
    assert world.ask(member, "GET", f"/api/invoices/{shown['id']}").json()["data"] == shown
    assert world.ask(member, "GET", "/api/invoices?status=open").json()["data"] == []
    other = (world.sold.tenant(), "admin")
    assert code_of(world.ask(other, "GET", f"/api/invoices/{shown['id']}")) == (404, "not_found")
    assert code_of(world.ask(other, "GET", f"/api/invoices?organization_id={tenant_id}")) == (404, "not_found")
    assert code_of(world.ask(member, "GET", "/api/invoices?status=lost")) == (400, "invalid_request")

    world.sold.execute(
        "INSERT INTO usage_counters (tenant_id, usage_type, day, quantity, events) VALUES (%s, 'RENDER', %s, 1000.1239, 3)",
        tenant_id,
        datetime.now(UTC).date(),
    )
    preview = world.ask(member, "GET", "/api/invoices/preview").json()["data"]
    (usage,) = preview["usage"]
    # 1000123 thousandths of a minute, 600000 of them included, each beyond at 0.002 cents.
    assert (usage["used"], usage["included"], usage["exact_amount"], usage["amount"]) == (1000.1239, 600, 800.246, 800)
    assert (preview["base_total"], preview["usage_total"], preview["total"]) == (9800, 800, 10600)

    billing = (tenant_id, "billing")
    assert code_of(world.ask(member, "POST", "/api/invoices", {})) == (403, "role_not_allowed")
    assert code_of(world.ask(billing, "POST", "/api/invoices", {})) == (400, "provider_refused")
    world.sold.stripe.client().v1.invoice_items.create(
        {"customer": str(there.customer), "amount": 1234, "currency": "usd", "description": "Setting up"}
    )
    key = secrets.token_hex(8)
    generated = world.ask(billing, "POST", "/api/invoices", {"description": "Setting up"}, key)
    assert generated.status_code == 201, generated.text
    assert generated.json()["data"]["total"] == 1234
    assert world.ask(billing, "POST", "/api/invoices", {"description": "Setting up"}, key).json() == generated.json()
    assert len(world.ask(member, "GET", "/api/invoices").json()["data"]) == 2


def test_the_requests_of_the_guide_work_as_they_stand(world: World) -> None:
    tenant_id = world.sold.tenant()
    blocks = re.findall(r"^```http\n([A-Z]+) (\S+)\n(.*?)^```", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    subscription = ""
    for method, path, body in blocks:
        path, body = (text.replace("ORG", tenant_id).replace("SUB", subscription) for text in (path, body))
        answered = world.ask((tenant_id, "admin"), method, path, json.loads(body) if body.strip() else None)
        assert answered.status_code in (200, 201), (method, path, answered.text)
        if (method, path) == ("POST", "/api/subscriptions"):
            subscription = answered.json()["data"]["id"]


def test_a_check_of_the_other_server_sees_a_change_within_a_second(world: World) -> None:
    tenant_id = world.sold.tenant(plan="free")
    asked: dict[str, object] = {"tenantId": tenant_id, "usageType": "RENDER", "quantity": 100}
    with serving(world.sold.settings, secret=world.service_secret) as checks:

        def becomes(reason: str) -> float:
            """How long after the answer of the control plane a check says so."""
            since = time.monotonic()
            while (said := checks.check(**asked)["reason"]) != reason:
                assert time.monotonic() - since < 5, f"{said} instead of {reason}"
            return time.monotonic() - since

        assert becomes("limit_exceeded") < 5
        body = {"organization_id": tenant_id, **BODY}
        made = world.ask((tenant_id, "admin"), "POST", "/api/subscriptions", body).json()["data"]
        assert becomes("within_plan") < 1
        world.ask((tenant_id, "admin"), "DELETE", f"/api/subscriptions/{made['id']}?at_period_end=false")
        assert becomes("subscription_inactive") < 1


def test_a_declined_card_is_told_as_such_and_without_a_provider_nothing_is_sold(world: World) -> None:
    tenant_id, made = world.subscribed()
    body = {"billing_cycle": "yearly", "payment_method_id": DECLINED}
    assert code_of(world.ask((tenant_id, "admin"), "PUT", f"/api/subscriptions/{made['id']}", body)) == (402, "payment_failed")
    bare = world.sold.settings.model_copy(update={"stripe_secret_key": None, "stripe_api_base": None})
    with control_plane_served(bare) as client:
        headers = {"Authorization": f"Bearer {clerk_token(tenant_id, 'admin')}"}
        refused = client.post("/api/subscriptions", headers=headers, json={"organization_id": tenant_id, **BODY})
        assert code_of(refused) == (412, "no_payment_provider")
