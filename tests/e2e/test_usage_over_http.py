"""Recording usage over a real socket, and the statistics of it from ClickHouse, behind the real consumer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from entitlements.relay import Relay
from runtime import clickhouse
from runtime.postgres import connect
from runtime.settings import Settings
from tests.e2e.seed_operations import seed
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.credit_customers import (
    OTHER,
    Customer,
    assert_the_ledger_holds,
    customer,
    data_of,
    refusal,
    with_catalog,
)
from tests.fakes.pipeline import Pipeline, wait_until

RECORD = "/api/usage/record"
BODY = {"service": "translator", "operation": "translate", "credits": "1.5", "metadata": {"modelId": "nmt", "pages": 3}}


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    return with_catalog(migrated, usage_deduct_services="translator, painter")


@pytest.fixture(scope="module")
def client(configured: Settings) -> Iterator[httpx.Client]:
    with control_plane_served(configured) as client:
        yield client
    assert_the_ledger_holds(configured)


@pytest.fixture
def ada(configured: Settings, client: httpx.Client) -> Customer:
    return customer(configured, client, 100)


def record(who: Customer, key: str | None = None, **over: Any) -> httpx.Response:
    return who.ask("POST", RECORD, BODY | over, {"Idempotency-Key": key or uuid.uuid4().hex})


@seed("001", "POST /api/usage/record", "used", "repeated")
def test_recorded_usage_is_charged_once_for_its_key(ada: Customer, configured: Settings) -> None:
    key = uuid.uuid4().hex
    first, again = record(ada, key), record(ada, key)
    assert (first.status_code, again.status_code) == (201, 200)
    said = data_of(first)
    assert (said["credits"], said["deducted"], said["balance"], said["usageType"]) == (
        Decimal("1.5"),
        True,
        Decimal("98.5"),
        "CREDITS",
    )
    assert data_of(again) == said | {"repeated": True}
    assert ada.balance == Decimal("98.5")
    assert refusal(record(ada, key, credits=2)) == (422, "idempotency_key_reused")
    assert refusal(record(ada, key, metadata={})) == (422, "idempotency_key_reused")
    with connect(configured) as connection:
        query = "SELECT value FROM outbox WHERE convert_from(value, 'UTF8') LIKE %s"
        ((value,),) = connection.execute(query, (f"%{key}%",)).fetchall()
    event = json.loads(bytes(value))
    assert (event["sourceService"], event["sourceEntityId"], event["quantity"]) == ("translator", key, "1.5")
    assert event["metadata"] == {
        "userId": ada.owner.user_id,
        "operation": "translate",
        "modelId": "nmt",
        "metadata": {"modelId": "nmt", "pages": 3},
    }


def test_many_records_at_once_under_one_key_are_one(ada: Customer) -> None:
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: record(ada, key), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert ada.balance == Decimal("98.5")


@seed("001", "POST /api/usage/record", "bad input")
def test_usage_beyond_the_credits_is_refused_and_nothing_is_recorded(configured: Settings, client: httpx.Client) -> None:
    ada = customer(configured, client, 1)
    key = uuid.uuid4().hex
    assert refusal(record(ada, key)) == (402, "insufficient_credits")
    assert data_of(record(ada, key, credits=1), 201)["balance"] == 0


def test_a_service_that_does_not_deduct_only_reports(ada: Customer) -> None:
    said = data_of(record(ada, service="reader", credits=1_000_000), 201)
    assert (said["deducted"], said["usageType"], said["balance"]) == (False, "CREDITS_REPORTED", 100)


@seed("001", "POST /api/usage/record", "bad input", "other tenant")
def test_a_key_names_one_piece_of_work_of_a_service_whoever_asks(
    ada: Customer, configured: Settings, client: httpx.Client
) -> None:
    assert refusal(ada.ask("POST", RECORD, BODY)) == (400, "idempotency_key_required")
    key = uuid.uuid4().hex
    record(ada, key)
    stranger = customer(configured, client, 100, tenant=OTHER)
    assert refusal(record(stranger, key)) == (409, "idempotency_key_taken")
    assert stranger.balance == 100
    # Another service's work may bear the same key.
    assert record(stranger, key, service="painter").status_code == 201
    assert refusal(record(ada, service="streaming-sessions")) == (400, "reserved_service")


@seed("001", "POST /api/usage/record", "bad input")
@pytest.mark.parametrize(
    "field",
    [
        '"credits": -1',
        '"credits": "-0.5"',
        '"credits": NaN',
        '"credits": Infinity',
        '"credits": "NaN"',
        '"credits": 1e2',
        '"credits": 0.0000001',
        '"credits": 1000000000000',
        '"credits": "1,5"',
        '"credits": true',
        '"credits": null',
        '"credits": [1]',
        '"service": ""',
        '"service": "a\\nb"',
        '"operation": 5',
        '"metadata": []',
        '"metadata": "x"',
        '"more": 1',
    ],
)
def test_a_record_that_is_not_valid_is_refused_and_nothing_is_charged(ada: Customer, field: str) -> None:
    name = json.loads("{" + field.split(":")[0] + ":0}").popitem()[0]
    body = {other: value for other, value in BODY.items() if other != name}
    sent = json.dumps(body)[:-1] + f", {field}}}"
    headers = ada.headers() | {"Idempotency-Key": uuid.uuid4().hex, "Content-Type": "application/json"}
    answer = ada.client.post(RECORD, content=sent, headers=headers)
    if field == '"credits": 1e2':
        assert answer.status_code == 201, answer.text
        return
    status, code = refusal(answer)
    assert (status, code in ("invalid_request", "malformed_json")) == (400, True)
    if code == "invalid_request":
        assert {told["field"].split(".")[0] for told in answer.json()["error"]["details"]["fields"]} == {name}
    assert ada.balance == 100


@seed("001", "POST /api/usage/record", "wrong role")
def test_only_users_record(ada: Customer) -> None:
    for headers, status in [
        ({}, 401),
        (ada.headers(exp=1), 401),
        (ada.headers(role="root"), 401),
        (ada.headers(tenantId=OTHER), 403),
    ]:
        answer = ada.client.post(RECORD, json=BODY, headers={**headers, "Idempotency-Key": "k"})
        assert answer.status_code == status


@pytest.fixture(scope="module")
def team(configured: Settings, client: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Customer]:
    """Users of a tenant of their own, whose sessions and records the consumer has written to ClickHouse."""
    tenant = "tnt_team"
    with connect(configured) as connection:
        connection.execute("INSERT INTO tenants (tenant_id, plan_id) VALUES (%s, 'chat')", (tenant,))
    team = {
        name: customer(configured, client, 100, tenant=tenant, role=role)
        for name, role in (("ada", "user"), ("bob", "user"), ("supervisor", "supervisor"), ("admin", "admin"))
    }
    team["ada"].begin("s1")
    team["ada"].done("finalize", sessionId="s1", actualTokens=1_000)
    record(team["ada"])
    record(team["ada"], service="reader", operation="read", credits=7, metadata={})
    record(team["bob"], operation="proofread", metadata={"model": "large"})
    record(customer(configured, client, 100, tenant=OTHER), credits=50)
    relay = Relay(configured, lambda: connect(configured, autocommit=True))
    with connect(configured, autocommit=True) as connection:
        claimed, acked = relay.turn(connection)
        assert claimed == acked
    with Pipeline(configured, tmp_path_factory.mktemp("pipeline")) as pipeline:
        pipeline.start("consume")
        reader = clickhouse.client(configured)
        count = "SELECT count() FROM usage WHERE tenant_id = 'tnt_team'"
        wait_until("the consumer has written them", lambda: reader.query(count).result_rows == [(4,)], 60.0)
    return team


def stats(who: Customer, path: str, status: int = 200) -> dict[str, Any]:
    return data_of(who.ask("GET", f"/api/usage/{path}"), status)


@seed("001", "GET /api/usage/stats", "used")
@seed("001", "GET /api/usage/stats/{userId}", "used")
def test_statistics_of_a_user_are_the_sums_of_what_was_charged_and_reported(team: dict[str, Customer]) -> None:
    found = stats(team["ada"], "stats")
    today = datetime.now(UTC).date().isoformat()
    assert found["total"] == {"credits": Decimal("11.5"), "charged": Decimal("4.5"), "events": 3}
    assert [day["credits"] for day in found["byDay"] if day["date"] == today] == [Decimal("11.5")]
    assert {line["service"]: line["credits"] for line in found["byService"]} == {
        "reader": 7,
        "streaming-sessions": 3,
        "translator": Decimal("1.5"),
    }
    assert {line["operation"]: line["events"] for line in found["byOperation"]} == {"read": 1, "stream": 1, "translate": 1}
    assert {line["model"]: line["credits"] for line in found["byModel"]} == {"": 7, "chat-large": 3, "nmt": Decimal("1.5")}
    assert found["others"] == {}
    # What the ledger has taken is what ClickHouse has counted.
    assert 100 - team["ada"].balance == found["total"]["charged"]
    for who in ("supervisor", "admin"):
        for name in (team["ada"].owner.user_id, quote(f"{team['ada'].owner.user_id}@example.com", safe="")):
            assert stats(team[who], f"stats/{name}") == found
    assert stats(team["supervisor"], "stats")["total"]["events"] == 0


@seed("001", "GET /api/usage/system-stats", "used")
def test_statistics_of_all_are_the_tenants_by_user_too(team: dict[str, Customer]) -> None:
    found = stats(team["admin"], "system-stats")
    assert found["total"] == {"credits": 13, "charged": 6, "events": 4}
    assert {line["user"]: line["credits"] for line in found["byUser"]} == {
        team["ada"].owner.user_id: Decimal("11.5"),
        team["bob"].owner.user_id: Decimal("1.5"),
    }
    assert {line["model"]: line["events"] for line in found["byModel"]} == {"": 1, "chat-large": 1, "nmt": 1, "large": 1}


@seed("001", "GET /api/usage/stats", "bad input")
@seed("001", "GET /api/usage/stats/{userId}", "bad input")
@seed("001", "GET /api/usage/system-stats", "bad input")
def test_days_are_both_included_and_bounded(team: dict[str, Customer]) -> None:
    today = datetime.now(UTC).date()
    before = today - timedelta(days=1)
    assert stats(team["ada"], f"stats?startDate={before}&endDate={before}")["total"]["events"] == 0
    assert stats(team["ada"], f"stats?startDate={before}&endDate={today + timedelta(days=1)}")["total"]["events"] == 3
    assert stats(team["admin"], f"system-stats?startDate={before}")["total"]["events"] == 4
    for query in (
        f"startDate={today}&endDate={before}",
        "startDate=yesterday",
        "startDate=2020-01-01&endDate=2021-12-31",
        "startDate=0001-01-01&endDate=0001-01-02",
        "endDate=9999-12-31",
        "startDate=2026-02-30",
    ):
        for who, path in (("ada", "stats"), ("admin", f"stats/{team['ada'].owner.user_id}"), ("admin", "system-stats")):
            assert team[who].ask("GET", f"/api/usage/{path}?{query}").status_code == 400, query


@seed("001", "GET /api/usage/stats", "wrong role", "other tenant")
@seed("001", "GET /api/usage/stats/{userId}", "wrong role", "other tenant")
@seed("001", "GET /api/usage/system-stats", "wrong role", "other tenant")
def test_statistics_are_shown_by_role_and_tenant(team: dict[str, Customer], configured: Settings, client: httpx.Client) -> None:
    path = f"stats/{team['bob'].owner.user_id}"
    for who, where in (("ada", path), ("ada", "system-stats"), ("supervisor", "system-stats")):
        assert refusal(team[who].ask("GET", f"/api/usage/{where}")) == (403, "role_not_allowed")
    stranger = customer(configured, client, 0, tenant=OTHER, role="admin")
    assert refusal(stranger.ask("GET", f"/api/usage/{path}")) == (404, "not_found")
    assert refusal(team["admin"].ask("GET", "/api/usage/stats/nobody")) == (404, "not_found")
    assert team["bob"].owner.user_id not in json.dumps(stats(stranger, "system-stats"), default=str)
    assert client.get("/api/usage/stats").status_code == 401


def test_while_clickhouse_is_away_statistics_say_so(configured: Settings, tmp_path: Path) -> None:
    away = configured.model_copy(update={"clickhouse_url": "http://127.0.0.1:9/meterline"})
    with control_plane_served(away) as client:
        answer = customer(configured, client, 0).ask("GET", "/api/usage/stats")
    assert refusal(answer) == (503, "warehouse_unavailable")
    assert answer.headers["retry-after"] == "1"
