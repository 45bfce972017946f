"""/api/credits over a real socket: what is given, set, taken away and worked out, by whom and for whom."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from pydantic import SecretStr

from runtime.postgres import connect
from runtime.settings import Settings
from store import catalog
from store.catalog_file import parse_catalog
from store.credit_checks import check_credits
from tests.e2e.seed_operations import seed
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.tokens import USER_SECRET, user_token

CATALOG = """
rates:
  aurora:
    per_tokens: 1000000
    prices:
      2026-01-01: {input: 3, output: 15, cached: 0.3}
  retired: {per_tokens: 1000, prices: {2020-01-01: {input: 1, output: 1, until: 2021-01-01}}}
  upscale: {prices: {2026-01-01: {each: 12.5}}}
plans: {p: {name: P}}
tenants: {t1: {plan: p}, t2: {plan: p}}
"""
CHANGES = {
    ("POST", "/api/credits/allocate"): {"credits": 5},
    ("POST", "/api/credits/set"): {"credits": 5},
    ("DELETE", "/api/credits/remove"): {"credits": 5},
    ("PUT", "/api/credits/adjust"): {"adjustment": 5},
}


@dataclass(frozen=True)
class Person:
    """Somebody with a token, and an account in a tenant."""

    user_id: str
    email: str
    headers: dict[str, str]


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    with connect(migrated) as connection:
        catalog.apply(connection, parse_catalog(CATALOG), by="tester")
    # Without the limit, which a quick machine meets here.
    return migrated.model_copy(update={"jwt_access_secret": SecretStr(USER_SECRET), "rate_limit_user_per_s": 0.0})


@pytest.fixture(scope="module")
def client(configured: Settings) -> Iterator[httpx.Client]:
    with control_plane_served(configured) as client:
        yield client
    with connect(configured) as connection:
        check = check_credits(connection)
    assert check.ok, check.findings


def person(settings: Settings, role: str = "user", tenant: str = "t1") -> Person:
    user_id = f"u-{uuid.uuid4().hex}"
    email = f"{user_id}+x@example.com"
    with connect(settings) as connection:
        connection.execute(
            "INSERT INTO users (user_id, tenant_id, email, role) VALUES (%s, %s, %s, %s)", (user_id, tenant, email, role)
        )
    token = user_token(user_id, role=role, tenantId=tenant, email=email)
    return Person(user_id, email, {"Authorization": f"Bearer {token}"})


@pytest.fixture
def ada(configured: Settings) -> Person:
    return person(configured)


@pytest.fixture(scope="module")
def admin(configured: Settings) -> Person:
    return person(configured, "admin")


def ask(client: httpx.Client, who: Person, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {**who.headers, "Content-Type": "application/json", **headers}
    return client.request(method, path, content=content, headers=sent)


def data_of(answered: httpx.Response, status: int = 200) -> Any:
    assert answered.status_code == status, answered.text
    return json.loads(answered.content, parse_float=Decimal)["data"]


def refusal(answered: httpx.Response) -> tuple[int, str]:
    body = answered.json()
    assert body["status"] == "error"
    return answered.status_code, body["error"]["code"]


def give(client: httpx.Client, admin: Person, to: Person, credits: object, **over: object) -> Any:
    return data_of(ask(client, admin, "POST", "/api/credits/allocate", {"userId": to.user_id, "credits": credits, **over}), 201)


def balance(client: httpx.Client, who: Person) -> Any:
    return data_of(ask(client, who, "GET", "/api/credits/balance"))


@seed("001", "GET /api/credits/balance", "used")
@seed("001", "GET /api/credits/balance/{userId}", "used")
@seed("001", "POST /api/credits/allocate", "used")
def test_credits_are_given_with_expiry_and_notes_and_seen_by_their_owner_and_by_supervisors(
    client: httpx.Client, configured: Settings, ada: Person, admin: Person
) -> None:
    assert balance(client, ada) == {"userId": ada.user_id, "balance": 0, "held": 0, "overdraft": 0, "lots": []}
    lasting = give(client, admin, ada, 10, notes="welcome")
    brief = give(client, admin, ada, "2.500001", expiryDays=30)
    assert (lasting["userId"], lasting["credits"], brief["balance"]) == (ada.user_id, 10, Decimal("12.500001"))
    supervisor = person(configured, "supervisor")
    for name in (ada.user_id, quote(ada.email, safe=""), quote(ada.email.upper(), safe="")):
        shown = data_of(ask(client, supervisor, "GET", f"/api/credits/balance/{name}"))
        assert shown == balance(client, ada)
    # The one that expires pays first.
    first, second = shown["lots"]
    assert (first["credits"], first["notes"], second["credits"], second["notes"], second["expiresAt"]) == (
        Decimal("2.500001"), "", 10, "welcome", None,
    )  # fmt: skip
    lives = datetime.fromisoformat(first["expiresAt"]) - datetime.fromisoformat(first["createdAt"])
    assert lives == timedelta(days=30)


@seed("001", "POST /api/credits/check", "used")
def test_a_check_says_whether_the_credits_suffice_to_the_last_millionth(client: httpx.Client, ada: Person, admin: Person) -> None:
    give(client, admin, ada, 3)
    for required, suffices in ((b"3", True), (b"3.000001", False), (b"0", True), (b'"2.9"', True)):
        shown = data_of(ask(client, ada, "POST", "/api/credits/check", b'{"requiredCredits": ' + required + b"}"))
        assert (shown["sufficient"], shown["balance"]) == (suffices, 3)


@seed("001", "POST /api/credits/calculate", "used", "bad input")
def test_a_cost_is_exact_and_says_the_price(client: httpx.Client, ada: Person) -> None:
    def cost(body: object) -> Any:
        return data_of(ask(client, ada, "POST", "/api/credits/calculate", body))

    counts = {"input": 1000, "output": 333, "cached": 1}
    shown = cost({"modelId": "aurora", "tokens": counts})
    # 0.003 + 0.004995 + 0.0000003, rounded up to a millionth.
    assert shown["credits"] == Decimal("0.007996")
    assert shown["price"] == {
        "modelId": "aurora", "validFrom": "2026-01-01", "perTokens": 1_000_000, "input": "3", "output": "15", "cached": "0.3",
    }  # fmt: skip
    assert cost({"modelId": "aurora", "tokens": 333})["credits"] == Decimal("0.004995")
    assert cost({"operation": "upscale", "times": 2})["credits"] == 25
    for body, code in (
        ({"modelId": "nobody", "tokens": 1}, "unknown_model"),
        ({"modelId": "upscale", "tokens": 1}, "unknown_model"),
        ({"modelId": "retired", "tokens": 1}, "rate_not_valid"),
        ({"operation": "aurora"}, "unknown_operation"),
        ({"modelId": "aurora", "tokens": -1}, "invalid_request"),
        ({"modelId": "aurora", "tokens": 10**13}, "invalid_request"),
        ({"modelId": "aurora", "tokens": 1.5}, "invalid_request"),
        ({"modelId": "aurora", "tokens": {"input": True}}, "invalid_request"),
        ({"modelId": "aurora", "tokens": {"images": 1}}, "invalid_request"),
        ({"modelId": "aurora"}, "invalid_request"),
        ({"modelId": "aurora", "tokens": 1, "operation": "upscale"}, "invalid_request"),
        ({}, "invalid_request"),
        (b'{"modelId": "aurora", "tokens": NaN}', "malformed_json"),
    ):
        assert refusal(ask(client, ada, "POST", "/api/credits/calculate", body)) == (400, code), body


@seed("001", "POST /api/credits/set", "used")
@seed("001", "DELETE /api/credits/remove", "used")
@seed("001", "PUT /api/credits/adjust", "used")
def test_a_balance_is_set_adjusted_and_reduced_and_every_step_is_in_the_ledger_and_the_audit(
    client: httpx.Client, configured: Settings, ada: Person, admin: Person
) -> None:
    give(client, admin, ada, 7)

    def change(method: str, path: str, **body: object) -> Any:
        return data_of(ask(client, admin, method, path, {"userId": ada.email, **body}))["balance"]

    assert change("POST", "/api/credits/set", credits=20, expiryDays=10, notes="a new start") == 20
    assert [lot["notes"] for lot in balance(client, ada)["lots"]] == ["a new start"]
    assert change("PUT", "/api/credits/adjust", adjustment=5, expiryDays=1) == 25
    assert change("PUT", "/api/credits/adjust", adjustment="-0.5", notes="too much") == Decimal("24.5")
    assert change("DELETE", "/api/credits/remove", credits=24) == Decimal("0.5")
    refused = ask(client, admin, "DELETE", "/api/credits/remove", {"userId": ada.user_id, "credits": "0.500001"})
    assert refusal(refused) == (402, "insufficient_credits")
    assert change("POST", "/api/credits/set", credits=0) == 0
    with connect(configured) as connection:
        kinds = connection.execute(
            "SELECT o.kind, o.who, o.note FROM credit_operations o JOIN credit_accounts a USING (account_id)"
            " WHERE a.user_id = %s ORDER BY operation_id",
            (ada.user_id,),
        ).fetchall()
        audited = connection.execute(
            "SELECT what, who, after->>'balance' FROM audit WHERE subject = %s ORDER BY id", (ada.user_id,)
        ).fetchall()
    who = f"user:{admin.user_id}"
    assert kinds == [
        ("grant", who, ""), ("set", who, "a new start"), ("adjust", who, ""), ("adjust", who, "too much"), ("remove", who, ""),
        ("set", who, ""),
    ]  # fmt: skip
    assert audited == [
        ("credits.allocated", who, "7"), ("credits.set", who, "20"), ("credits.adjusted", who, "25"),
        ("credits.adjusted", who, "24.5"), ("credits.removed", who, "0.5"), ("credits.set", who, "0"),
    ]  # fmt: skip


@seed("001", "POST /api/credits/allocate", "wrong role", "other tenant", "bad input", "repeated")
@seed("001", "POST /api/credits/set", "wrong role", "other tenant", "bad input", "repeated")
@seed("001", "DELETE /api/credits/remove", "wrong role", "other tenant", "bad input", "repeated")
@seed("001", "PUT /api/credits/adjust", "wrong role", "other tenant", "bad input", "repeated")
@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_a_change_wants_the_right_role_tenant_and_input_and_is_made_once(
    client: httpx.Client, configured: Settings, ada: Person, admin: Person, method: str, path: str
) -> None:
    give(client, admin, ada, 5)
    (field,) = CHANGES[(method, path)]
    body = {"userId": ada.user_id, **CHANGES[(method, path)]}
    assert refusal(ask(client, ada, method, path, body)) == (403, "role_not_allowed")
    stranger = person(configured, "admin", "t2")
    for name in (ada.user_id, ada.email):
        assert refusal(ask(client, stranger, method, path, {**body, "userId": name})) == (404, "not_found")
    assert refusal(ask(client, admin, method, path, {**body, "userId": "nobody"})) == (404, "not_found")
    wrong: list[tuple[object, str]] = [
        ({**body, field: number}, "invalid_request")
        for number in ("NaN", "1e3", "1.0000001", 10**12, "", None, True, [5], {"credits": 5})
    ]
    if field != "adjustment":
        wrong.append(({**body, field: -1}, "invalid_request"))
    if path != "/api/credits/set":
        wrong.append(({**body, field: 0}, "invalid_request"))
    if path != "/api/credits/remove":
        wrong += [({**body, "expiryDays": days}, "invalid_request") for days in (0, -1, 1.5, 3651, "30", True)]
    if field == "adjustment":
        wrong.append(({**body, field: -1, "expiryDays": 3}, "invalid_request"))
    text = json.dumps(body).encode()
    for number in (b"NaN", b"Infinity", b"1" * 100):
        wrong.append((text.replace(b'": 5', b'": ' + number), "malformed_json"))
    wrong += [
        (text.replace(b'": 5', b'": 1e999'), "invalid_request"),
        ({**body, "notes": "x" * 1001}, "invalid_request"),
        ({**body, "colour": "red"}, "invalid_request"),
        ({name: value for name, value in body.items() if name != "userId"}, "invalid_request"),
        (b"", "invalid_request"),
    ]
    for sent, code in wrong:
        assert refusal(ask(client, admin, method, path, sent)) == (400, code), sent
    assert balance(client, ada)["balance"] == 5
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: ask(client, admin, method, path, body, **{"Idempotency-Key": key}), range(4)))
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    again = ask(client, admin, method, path, body, **{"Idempotency-Key": key})
    assert again.status_code in (200, 201)
    assert {answer.content for answer in answers if answer.status_code != 409} <= {again.content}
    assert balance(client, ada)["balance"] == {"allocate": 10, "set": 5, "remove": 0, "adjust": 10}[path.rpartition("/")[2]]
    other = ask(client, admin, method, path, {**body, field: 4}, **{"Idempotency-Key": key})
    assert refusal(other) == (422, "idempotency_key_reused")


@seed("001", "GET /api/credits/balance", "wrong role")
@seed("001", "GET /api/credits/balance/{userId}", "wrong role", "other tenant", "bad input")
@seed("001", "POST /api/credits/check", "wrong role", "bad input")
@seed("001", "POST /api/credits/calculate", "wrong role")
def test_what_others_have_is_shown_to_nobody_else(client: httpx.Client, configured: Settings, ada: Person, admin: Person) -> None:
    path = f"/api/credits/balance/{ada.user_id}"
    assert refusal(ask(client, ada, "GET", path)) == (403, "role_not_allowed")
    stranger = person(configured, "admin", "t2")
    for name in (ada.user_id, quote(ada.email, safe=""), "nobody", quote("a/b", safe="")):
        assert refusal(ask(client, stranger, "GET", f"/api/credits/balance/{name}"))[0] == 404
    assert refusal(ask(client, admin, "GET", "/api/credits/balance/nobody")) == (404, "not_found")
    nobody = Person("", "", {})
    for method, asked in (("GET", "balance"), ("GET", "balance/x"), ("POST", "check"), ("POST", "calculate")):
        assert ask(client, nobody, method, f"/api/credits/{asked}", {} if method == "POST" else None).status_code == 401
    for required in (-1, "NaN", "1e3", 10**12, None, True, "1.0000001"):
        assert refusal(ask(client, ada, "POST", "/api/credits/check", {"requiredCredits": required})) == (400, "invalid_request")
    expired = user_token(ada.user_id, tenantId="t1", expires_s=-5)
    answered = client.get("/api/credits/balance", headers={"Authorization": f"Bearer {expired}"})
    assert answered.status_code == 401
