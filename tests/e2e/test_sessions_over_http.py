"""Streaming sessions over a real socket: hold, settle, refund, and who may see what."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from runtime.postgres import connect
from runtime.settings import Settings
from store import credits
from store.credits import By
from store.steps import run
from tests.e2e.seed_operations import seed
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.credit_customers import (
    CAPPED,
    ENDPOINT,
    FREE_MODEL,
    LAPSED_MODEL,
    MODEL,
    OTHER,
    Customer,
    assert_the_ledger_holds,
    customer,
    data_of,
    let_expire,
    refusal,
    spend,
    with_catalog,
)
from tests.fakes.sweeping import sweep_all

POSTS: dict[str, dict[str, Any]] = {
    "initialize": {"modelId": MODEL, "estimatedTokens": 5},
    "finalize": {"actualTokens": 5},
    "abort": {"tokensGenerated": 5},
}


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    return with_catalog(migrated)


@pytest.fixture(scope="module")
def client(configured: Settings) -> Iterator[httpx.Client]:
    with control_plane_served(configured) as client:
        yield client
    assert_the_ledger_holds(configured)


@pytest.fixture
def ada(configured: Settings, client: httpx.Client) -> Customer:
    return customer(configured, client, 100)


def events(settings: Settings, customer: Customer) -> list[dict[str, Any]]:
    """What was promised of the customer's sessions, in order."""
    with connect(settings) as connection:
        rows = connection.execute("SELECT value FROM outbox ORDER BY id").fetchall()
    found = [json.loads(bytes(value)) for (value,) in rows]
    return [event for event in found if event["metadata"]["userId"] == customer.owner.user_id]


@seed("001", "POST /api/streaming-sessions/initialize", "used")
@seed("001", "POST /api/streaming-sessions/finalize", "used")
def test_what_is_held_is_charged_as_far_as_it_was_used_and_the_rest_comes_back(ada: Customer, configured: Settings) -> None:
    begun = ada.post("initialize", sessionId="s1", modelId=MODEL, estimatedTokens={"input": 1_000, "output": 3_000, "cached": 10})
    held = data_of(begun, 201)
    assert (held["allocatedCredits"], held["balance"], held["state"]) == (Decimal("10.001"), Decimal("89.999"), "active")
    assert (ada.balance, ada.held) == (Decimal("89.999"), Decimal("10.001"))
    ended = ada.done("finalize", sessionId="s1", actualTokens={"input": 1_000, "output": 100})
    assert (ended["state"], ended["chargedCredits"], ended["refundedCredits"]) == ("finalized", Decimal("1.3"), Decimal("8.701"))
    assert (ended["uncollectedCredits"], ended["balance"], ended["repeated"]) == (0, Decimal("98.7"), False)
    assert (ada.balance, ada.held) == (Decimal("98.7"), Decimal(0))
    (event,) = events(configured, ada)
    assert (event["usageType"], event["quantity"], event["sourceService"]) == ("CREDITS", "1.3", "streaming-sessions")
    assert event["sourceEntityId"] == ended["id"]
    assert event["metadata"]["tokens"] == {"input": 1_000, "output": 100, "cached": 0}


@seed("001", "POST /api/streaming-sessions/abort", "used")
def test_an_aborted_session_pays_what_was_generated(ada: Customer, configured: Settings) -> None:
    ada.begin("s1")
    ended = ada.done("abort", sessionId="s1", tokensGenerated=10)
    assert (ended["state"], ended["chargedCredits"], ended["balance"]) == ("aborted", Decimal("0.03"), Decimal("99.97"))
    ada.begin("s2")
    assert ada.done("abort", sessionId="s2", tokensGenerated=0)["chargedCredits"] == 0
    assert [event["quantity"] for event in events(configured, ada)] == ["0.03", "0"]


@seed("001", "POST /api/streaming-sessions/initialize", "repeated")
def test_the_same_beginning_again_is_the_same_session_and_another_is_refused(ada: Customer) -> None:
    body = {"sessionId": "s1", "modelId": MODEL, "estimatedTokens": 1_000}
    first, again = ada.post("initialize", **body), ada.post("initialize", **body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert data_of(again)["id"] == data_of(first)["id"]
    assert ada.held == 3
    assert refusal(ada.post("initialize", **body | {"estimatedTokens": 1_001})) == (409, "session_exists")
    ada.done("finalize", sessionId="s1", actualTokens=1)
    assert refusal(ada.post("initialize", **body)) == (409, "session_ended")


def test_many_beginnings_at_once_are_one_session(ada: Customer) -> None:
    body = {"sessionId": "s1", "modelId": MODEL, "estimatedTokens": 1_000}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ada.post("initialize", **body), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert ada.held == 3


@seed("001", "POST /api/streaming-sessions/finalize", "repeated")
@seed("001", "POST /api/streaming-sessions/abort", "repeated")
def test_the_same_end_again_changes_nothing_and_another_one_is_told_what_stands(ada: Customer, configured: Settings) -> None:
    ada.begin("s1")
    first = ada.done("finalize", sessionId="s1", actualTokens=100)
    again = ada.done("finalize", sessionId="s1", actualTokens=100)
    assert again == first | {"repeated": True}
    for what, body in (("finalize", {"actualTokens": 101}), ("abort", {"tokensGenerated": 100})):
        answer = ada.post(what, sessionId="s1", **body)
        assert refusal(answer) == (409, "session_finalized")
        assert answer.json()["error"]["details"]["chargedCredits"] == "0.3"
    ada.begin("s2")
    ada.done("abort", sessionId="s2", tokensGenerated=7)
    assert ada.done("abort", sessionId="s2", tokensGenerated=7)["repeated"] is True
    assert refusal(ada.post("finalize", sessionId="s2", actualTokens=7)) == (409, "session_aborted")
    assert len(events(configured, ada)) == 2


def test_crossed_ends_have_one_winner_and_the_others_are_told(ada: Customer) -> None:
    ada.begin("s1")
    ends = [("finalize", {"actualTokens": n}) for n in range(1, 6)] + [("abort", {"tokensGenerated": n}) for n in range(1, 6)]
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda end: ada.post(end[0], sessionId="s1", **end[1]), ends))
    winners = [answer for answer in answers if answer.status_code == 200]
    assert len(winners) == 1
    assert {refusal(answer)[1] for answer in answers if answer.status_code != 200} <= {"session_finalized", "session_aborted"}
    assert ada.balance == 100 - data_of(winners[0])["chargedCredits"]


def test_a_cost_beyond_the_hold_is_paid_with_the_balance_as_far_as_it_reaches(configured: Settings, client: httpx.Client) -> None:
    ada = customer(configured, client, 5)
    ada.begin("s1")
    ended = ada.done("finalize", sessionId="s1", actualTokens=10_000)
    assert (ended["chargedCredits"], ended["uncollectedCredits"], ended["balance"]) == (5, 25, 0)


def test_on_a_plan_that_caps_nobody_pays_beyond_the_hold(configured: Settings, client: httpx.Client) -> None:
    ada = customer(configured, client, 50, tenant=CAPPED)
    ada.begin("s1")
    ended = ada.done("finalize", sessionId="s1", actualTokens=10_000)
    assert (ended["chargedCredits"], ended["uncollectedCredits"], ended["balance"]) == (3, 27, 47)


@seed("001", "POST /api/streaming-sessions/initialize", "bad input")
def test_without_the_credits_nothing_is_begun(configured: Settings, client: httpx.Client) -> None:
    ada = customer(configured, client, "2.999999")
    answer = ada.post("initialize", sessionId="s1", modelId=MODEL, estimatedTokens=1_000)
    assert refusal(answer) == (402, "insufficient_credits")
    assert answer.json(parse_float=Decimal)["error"]["details"] == {"requiredCredits": 3, "spendableCredits": Decimal("2.999999")}
    assert ada.sees(f"{ENDPOINT}/active") == []
    # The name is free: nothing was begun under it.
    ada.done("initialize", sessionId="s1", modelId=MODEL, estimatedTokens=999)


@seed("001", "POST /api/streaming-sessions/initialize", "bad input")
@seed("001", "POST /api/streaming-sessions/finalize", "bad input")
@seed("001", "POST /api/streaming-sessions/abort", "bad input")
@pytest.mark.parametrize(
    "tokens",
    [
        "-1",
        "1.5",
        "1e3",
        "NaN",
        "Infinity",
        '"10"',
        "true",
        "null",
        "[]",
        "{}0",
        '{"input": -1}',
        '{"in": 1}',
        "1" + "0" * 10,
        "9" * 70,
    ],
)
def test_a_figure_that_is_none_is_refused_and_nothing_happens(ada: Customer, tokens: str) -> None:
    ada.begin("s1")
    for what, body in POSTS.items():
        (field,) = (name for name in body if name.endswith(("Tokens", "Generated")))
        text = json.dumps({"sessionId": "s1" if what != "initialize" else "s2", **body, field: 0})
        sent = text.replace(f'"{field}": 0', f'"{field}": {tokens}')
        answer = ada.client.post(
            f"{ENDPOINT}/{what}", content=sent, headers={**ada.headers(), "Content-Type": "application/json"}
        )
        assert answer.status_code == 400, (sent, answer.text)
        status, code = refusal(answer)
        assert (status, code in ("invalid_request", "malformed_json")) == (400, True)
        if code == "invalid_request":
            assert {told["field"].split(".")[0] for told in answer.json()["error"]["details"]["fields"]} == {field}
    assert (ada.balance, ada.held) == (Decimal(97), Decimal(3))


@seed("001", "POST /api/streaming-sessions/initialize", "bad input")
@pytest.mark.parametrize(
    ("over", "code"),
    [
        ({"modelId": "no-such-model"}, "unknown_model"),
        ({"modelId": LAPSED_MODEL}, "rate_not_valid"),
        ({"sessionId": ""}, "invalid_request"),
        ({"sessionId": "x" * 257}, "invalid_request"),
        ({"sessionId": "a\nb"}, "invalid_request"),
        ({"sessionId": 5}, "invalid_request"),
        ({"ttlSeconds": 0}, "invalid_request"),
        ({"ttlSeconds": 3_601}, "invalid_request"),
        ({"estimatedToken": 5}, "invalid_request"),
        ({"estimatedTokens": None}, "invalid_request"),
    ],
)
def test_a_beginning_that_is_not_valid_is_refused_by_name(ada: Customer, over: dict[str, Any], code: str) -> None:
    body = {"sessionId": "s1", "modelId": MODEL, "estimatedTokens": 1} | over
    assert refusal(ada.post("initialize", **body)) == (400, code)
    assert ada.held == 0


def test_a_heartbeat_keeps_a_session_and_says_what_an_orphan_is_charged(ada: Customer, configured: Settings) -> None:
    ada.begin("s1", ttlSeconds=60)
    before = ada.sees(f"{ENDPOINT}/active")[0]["expiresAt"]
    beaten = ada.done("heartbeat", sessionId="s1", tokensGenerated=50)
    assert beaten["expiresAt"] > before
    # Beats may overtake each other.
    assert ada.done("heartbeat", sessionId="s1", tokensGenerated=20)["reportedTokens"]["output"] == 50
    let_expire(configured, "s1")
    sweep_all(configured)
    assert ada.sees(f"{ENDPOINT}/active") == []
    assert ada.balance == Decimal("99.85")
    assert refusal(ada.post("heartbeat", sessionId="s1")) == (409, "session_expired")
    assert [event["quantity"] for event in events(configured, ada)] == ["0.15"]


def test_an_orphan_that_said_nothing_gets_everything_back(ada: Customer, configured: Settings) -> None:
    ada.begin("s1")
    let_expire(configured, "s1")
    assert (ada.balance, ada.held) == (Decimal(97), Decimal(3))
    sweep_all(configured)
    assert (ada.balance, ada.held) == (Decimal(100), Decimal(0))


@seed("001", "POST /api/streaming-sessions/finalize", "bad input")
def test_an_end_after_the_sweeper_is_charged_all_the_same(ada: Customer, configured: Settings) -> None:
    for name, beat in (("s1", 0), ("s2", 50)):
        ada.begin(name)
        ada.done("heartbeat", sessionId=name, tokensGenerated=beat)
    let_expire(configured, "s1", "s2")
    sweep_all(configured)
    ended = ada.done("finalize", sessionId="s1", actualTokens=200)
    assert (ended["late"], ended["chargedCredits"], ended["state"]) == (True, Decimal("0.6"), "finalized")
    assert ada.done("finalize", sessionId="s1", actualTokens=200)["repeated"] is True
    # What the sweeper charged is not charged again.
    assert ada.done("abort", sessionId="s2", tokensGenerated=60)["chargedCredits"] == Decimal("0.18")
    assert ada.balance == 100 - Decimal("0.6") - Decimal("0.18")
    assert sorted(event["quantity"] for event in events(configured, ada)) == ["0", "0.03", "0.15", "0.6"]


def test_an_orphan_that_cannot_be_ended_keeps_the_others_waiting_for_nothing(ada: Customer, configured: Settings) -> None:
    stuck = ada.done("initialize", sessionId="s1", modelId=MODEL, estimatedTokens=1_000)["id"]
    ada.begin("s2")
    with connect(configured) as connection:
        # Behind the session's back, which only a defect or an operator does.
        run(connection, credits.release(uuid.UUID(stuck), by=By("test")))
    let_expire(configured, "s1", "s2")
    sweep_all(configured)
    assert [session["sessionId"] for session in ada.sees(f"{ENDPOINT}/active")] == ["s1"]
    assert (ada.balance, ada.held) == (Decimal(100), Decimal(0))


def test_an_end_after_the_sweeper_takes_what_there_is(configured: Settings, client: httpx.Client) -> None:
    ada = customer(configured, client, 3)
    ada.begin("s1")
    let_expire(configured, "s1")
    sweep_all(configured)
    assert spend(configured, ada.owner, 2)
    ended = ada.done("finalize", sessionId="s1", actualTokens=1_000)
    assert (ended["chargedCredits"], ended["uncollectedCredits"], ended["balance"]) == (1, 2, 0)


def test_a_model_that_costs_nothing_needs_no_credits(configured: Settings, client: httpx.Client) -> None:
    ada = customer(configured, client, 0)
    ada.done("initialize", sessionId="s1", modelId=FREE_MODEL, estimatedTokens=1_000)
    assert ada.done("finalize", sessionId="s1", actualTokens=5_000)["chargedCredits"] == 0


@seed("001", "POST /api/streaming-sessions/finalize", "other tenant")
@seed("001", "POST /api/streaming-sessions/abort", "other tenant")
@seed("001", "POST /api/streaming-sessions/initialize", "other tenant")
def test_nobody_else_can_end_or_see_a_session(ada: Customer, configured: Settings, client: httpx.Client) -> None:
    ada.begin("s1")
    for tenant, role in ((OTHER, "admin"), (ada.owner.tenant_id, "admin"), (ada.owner.tenant_id, "user")):
        somebody = customer(configured, client, 100, tenant=tenant, role=role)
        assert refusal(somebody.post("finalize", sessionId="s1", actualTokens=1)) == (404, "not_found")
        assert refusal(somebody.post("abort", sessionId="s1", tokensGenerated=1)) == (404, "not_found")
        assert refusal(somebody.post("heartbeat", sessionId="s1")) == (404, "not_found")
        # A name is one's own: theirs is another session.
        assert somebody.begin("s1") == "s1"
    assert ada.held == 3


@seed("001", "GET /api/streaming-sessions/active", "used", "other tenant")
@seed("001", "GET /api/streaming-sessions/active/{userId}", "used", "wrong role", "other tenant", "bad input")
@seed("001", "GET /api/streaming-sessions/active/all", "used", "wrong role", "other tenant")
@seed("001", "GET /api/streaming-sessions/recent", "used", "wrong role", "other tenant")
@seed("001", "GET /api/streaming-sessions/recent/{userId}", "used", "wrong role", "other tenant", "bad input")
def test_everybody_sees_what_the_role_may_see_of_the_tenant(configured: Settings, client: httpx.Client) -> None:
    tenant = f"tnt_{uuid.uuid4().hex[:8]}"
    with connect(configured) as connection:
        connection.execute("INSERT INTO tenants (tenant_id, plan_id) VALUES (%s, 'chat')", (tenant,))
    user = customer(configured, client, tenant=tenant)
    supervisor = customer(configured, client, tenant=tenant, role="supervisor")
    admin = customer(configured, client, tenant=tenant, role="admin")
    stranger = customer(configured, client, tenant=OTHER, role="admin")
    for name in ("s1", "s2", "s3"):
        user.begin(name)
    admin.begin("s4")
    user.done("finalize", sessionId="s2", actualTokens=1)

    def names(who: Customer, path: str) -> list[str]:
        return [session["sessionId"] for session in who.sees(f"{ENDPOINT}/{path}?limit=2")]

    assert names(user, "active") == ["s3", "s1"]
    assert names(supervisor, "active") == []
    by_id, by_address = user.owner.user_id, quote(f"{user.owner.user_id}@EXAMPLE.com", safe="")
    for who in (supervisor, admin):
        assert names(who, f"active/{by_id}") == names(who, f"active/{by_address}") == ["s3", "s1"]
        assert names(who, f"recent/{by_id}") == names(who, f"recent/{by_address}") == ["s3", "s2", "s1"]
        assert names(who, "recent") == ["s4", "s3", "s2", "s1"]
    assert names(admin, "active/all") == ["s4", "s3", "s1"]
    # Nobody's id is `all`: an admin's way leads there, and a supervisor's does not lead to a user of that name.
    for who, path in [(user, path) for path in ("active/all", f"active/{by_id}", "recent", f"recent/{by_id}")] + [
        (supervisor, "active/all")
    ]:
        assert refusal(who.ask("GET", f"{ENDPOINT}/{path}")) == (403, "role_not_allowed")
    assert tenant not in json.dumps(stranger.sees(f"{ENDPOINT}/active/all") + stranger.sees(f"{ENDPOINT}/recent"))
    for path in (f"active/{by_id}", f"recent/{by_address}", "active/nobody", "recent/nobody"):
        assert refusal(stranger.ask("GET", f"{ENDPOINT}/{path}")) == (404, "not_found")
    for query in ("limit=0", "limit=201", "limit=x", "cursor=x", "cursor=W10"):
        assert admin.ask("GET", f"{ENDPOINT}/recent?{query}").status_code == 400


@seed("001", "POST /api/streaming-sessions/initialize", "wrong role")
@seed("001", "POST /api/streaming-sessions/finalize", "wrong role")
@seed("001", "POST /api/streaming-sessions/abort", "wrong role")
@seed("001", "GET /api/streaming-sessions/active", "wrong role")
def test_who_is_no_user_or_shows_a_bad_token_has_no_sessions(ada: Customer) -> None:
    wrong: list[tuple[dict[str, str], int]] = [
        ({}, 401),
        ({"Authorization": "Bearer x"}, 401),
        (ada.headers(exp=1), 401),
        (ada.headers(secret="another secret, which is as long as the right one"), 401),
        (ada.headers(role="root"), 401),
        (ada.headers(tenantId=OTHER), 403),
    ]
    for headers, status in wrong:
        for what, body in POSTS.items():
            sent = {"sessionId": "s1", **body}
            assert ada.client.post(f"{ENDPOINT}/{what}", json=sent, headers=headers).status_code == status
        assert ada.client.get(f"{ENDPOINT}/active", headers=headers).status_code == status
