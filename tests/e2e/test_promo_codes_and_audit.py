"""Promo codes and the audit trail through the real process: every role, the other tenant, bad input, a repeated call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from runtime.postgres import connect
from runtime.settings import Settings
from store.service_secrets import create
from tests.e2e.seed_operations import seed
from tests.fakes.tokens import ISSUER, ORIGIN, clerk_key, clerk_token, pem_of
from tests.integration.selling import CARD, Shop, shop
from tests.integration.serving import serving


@dataclass
class Told:
    """The running server, and who asks it."""

    client: httpx.Client
    operator: Mapping[str, str]
    tenant: str
    other: str
    sold: Shop

    def member(self, role: str, tenant: str | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {clerk_token(tenant or self.tenant, role)}"}

    def made(self, code: str, **terms: Any) -> httpx.Response:
        return self.client.post("/api/promo-codes", json={"code": code, "percent_off": 12.5, **terms}, headers=self.operator)

    def subscribed(self) -> str:
        body = {"organization_id": self.tenant, "plan_id": "studio", "currency": "usd", "payment_method_id": CARD}
        shown = self.client.get(f"/api/subscriptions/{self.tenant}", headers=self.operator)
        if shown.status_code == 404:
            shown = self.client.post("/api/subscriptions", json=body, headers=self.operator)
        return str(shown.json()["data"]["id"])


@pytest.fixture(scope="module")
def told(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    clerk = {"clerk_jwt_key": pem_of(clerk_key("one")).replace("\n", "\\n"), "clerk_issuer": ISSUER}
    settings = migrated.model_copy(update={**clerk, "clerk_authorized_parties": ORIGIN})
    with shop(settings, tmp_path_factory.mktemp("stripe")) as sold:
        with connect(sold.settings) as connection:
            operator = create(connection, "operator", ["*"], "test")
        with (
            serving(sold.settings, secret=operator, role="control-plane") as server,
            httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20) as client,
        ):
            yield Told(client, {"X-Service-Secret": operator}, sold.tenant(), sold.tenant(), sold)


def code_of(answered: httpx.Response) -> tuple[int, str]:
    return answered.status_code, answered.json()["error"]["code"]


@seed("003", "promo codes", "used", "wrong role", "bad input", "repeated")
def test_an_operator_makes_lists_and_ends_codes_and_nobody_else_does(told: Told) -> None:
    made = told.made("LAUNCH20", max_redemptions=5, plan_ids=["studio"])
    assert made.status_code == 201, made.text
    promo_code = made.json()["data"]
    assert (promo_code["percent_off"], promo_code["redeemed"], promo_code["ready"]) == (12.5, 0, True)
    assert told.made("LAUNCH20", max_redemptions=5, plan_ids=["studio"]).json()["data"] == promo_code
    assert code_of(told.made("LAUNCH20")) == (409, "promo_code_exists")
    keyed = {**told.operator, "Idempotency-Key": "once"}
    first, again = (told.client.post("/api/promo-codes", json={"code": "KEYED", "percent_off": 5}, headers=keyed) for _ in "ab")
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    for bad in (
        {"code": "no", "percent_off": 5},
        {"code": "BOTH", "percent_off": 5, "amount_off": 5, "currency": "usd"},
        {"code": "NONE"},
        {"code": "TOOMUCH", "percent_off": 100.01},
        {"code": "FINE", "percent_off": 1.234},
        {"code": "COIN", "amount_off": 100},
        {"code": "MONTHS", "percent_off": 5, "duration": "repeating"},
        {"code": "FIELD", "percent_off": 5, "typing_error": 1},
    ):
        assert code_of(told.client.post("/api/promo-codes", json=bad, headers=told.operator)) == (400, "invalid_request"), bad
    for role in ("member", "billing", "admin"):
        assert code_of(told.client.get("/api/promo-codes", headers=told.member(role))) == (403, "role_not_allowed")
    listed = told.client.get("/api/promo-codes", params={"limit": 1}, headers=told.operator).json()
    following = told.client.get("/api/promo-codes", params={"cursor": listed["page"]["nextCursor"]}, headers=told.operator).json()
    assert [one["code"] for one in listed["data"] + following["data"]] == ["KEYED", "LAUNCH20"]
    path = f"/api/promo-codes/{promo_code['id']}"
    assert told.client.get(path, headers=told.operator).json()["data"] == promo_code
    ended = told.client.delete(path, headers=told.operator).json()["data"]
    assert not ended["active"]
    assert told.client.delete(path, headers=told.operator).json()["data"] == ended
    assert code_of(told.client.get(f"{path[:-1]}x", headers=told.operator))[0] in (400, 404)


@seed("003", "promo codes", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_an_organizations_people_try_and_redeem_codes_for_their_own_only(told: Told) -> None:
    assert told.made("WELCOME", duration="forever", plan_ids=["studio"]).status_code == 201
    subscription_id = told.subscribed()
    asked = {"code": "welcome", "organization_id": told.tenant, "plan_id": "studio", "currency": "usd"}
    tried = told.client.post("/api/promo-codes/validate", json=asked, headers=told.member("member"))
    assert (tried.status_code, tried.json()["data"]["valid"]) == (200, True)
    wrong_plan = told.client.post("/api/promo-codes/validate", json={**asked, "plan_id": "agency"}, headers=told.member("member"))
    assert wrong_plan.json()["data"]["reason"] == "wrong_plan"
    elsewhere = {**asked, "organization_id": told.other}
    assert told.client.post("/api/promo-codes/validate", json=elsewhere, headers=told.member("admin")).status_code == 404

    body = {"code": "WELCOME", "organization_id": told.tenant, "subscription_id": subscription_id}
    assert code_of(told.client.post("/api/promo-codes/redeem", json=body, headers=told.member("member")))[0] == 403
    stranger = told.member("billing", told.other)
    assert told.client.post("/api/promo-codes/redeem", json=body, headers=stranger).status_code == 404
    theirs = {**body, "organization_id": told.other}
    assert told.client.post("/api/promo-codes/redeem", json=theirs, headers=stranger).status_code == 404
    first, again = (told.client.post("/api/promo-codes/redeem", json=body, headers=told.member("billing")) for _ in "ab")
    assert (first.status_code, again.json()) == (201, first.json()), first.text
    unknown = told.client.post("/api/promo-codes/redeem", json={**body, "code": "NOSUCH"}, headers=told.member("billing"))
    assert code_of(unknown) == (412, "promo_code_unknown_code")
    (there,) = told.sold.at_stripe(told.tenant)
    assert len(there.discounts) == 1


@seed("003", "audit", "used", "wrong role", "other tenant", "bad input", "repeated")
def test_what_was_redeemed_stands_in_the_audit_of_the_organization_and_of_no_other(told: Told) -> None:
    told.made("AUDITED")
    body = {"code": "AUDITED", "organization_id": told.tenant, "subscription_id": told.subscribed()}
    request_id = {"X-Request-Id": "the-request-that-redeems"}
    told.client.post("/api/promo-codes/redeem", json=body, headers=told.member("admin") | request_id)
    for _ in range(2):
        read = told.client.get("/api/audit", headers=told.member("admin"))
        (entry,) = [one for one in read.json()["data"] if one["request_id"] == request_id["X-Request-Id"] and one["after"]]
        assert (entry["what"], entry["who"]) == ("promo_code.redeemed", f"member:user_1@{told.tenant}")
        assert entry["after"]["code"] == "AUDITED"
    assert told.client.get("/api/audit", headers=told.member("admin", told.other)).json()["data"] == []
    other = {"organization_id": told.other}
    assert told.client.get("/api/audit", params=other, headers=told.member("admin")).status_code == 404
    for role in ("member", "billing"):
        assert told.client.get("/api/audit", headers=told.member(role)).status_code == 403
    assert code_of(told.client.get("/api/audit", params={"limit": 0}, headers=told.operator)) == (400, "invalid_request")


@seed("001", "GET /api/health", "used")
@seed("003", "GET /health", "used")
@seed("003", "GET /ready", "used")
def test_probes_are_open_and_ready_names_what_it_waits_for(told: Told) -> None:
    for path in ("/health", "/api/health"):
        assert told.client.get(path).json() == {"status": "success", "data": {"status": "ok"}}
    ready = told.client.get("/ready").json()["data"]
    assert ready["ready"]
    assert {"postgres", "migrations", "credentials"} <= set(ready["checks"])
