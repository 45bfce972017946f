"""Reserve, settle, release over the real socket, on the real Postgres."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from runtime.postgres import connect
from runtime.settings import Settings
from tests.fakes.pipeline import wait_until
from tests.integration.entitlement_data import PLANLESS, SERVICE, TENANT, put_catalog
from tests.integration.serving import ROOT, Answer, Server, execute, serving

RESERVATIONS = "/v1/billing/reservations"
CLIENTS = 200


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    secret, other = put_catalog(migrated)
    limit = "INSERT INTO plan_limits (plan_id, usage_type, quantity, hard, period) VALUES ('pro', 'RACED', 100, true, 'month')"
    execute(migrated, [("INSERT INTO usage_types (usage_type) VALUES ('RACED')", ()), (limit, ())])
    # Kafka is away all the time: what is settled here stays promised, and holds.
    with serving(migrated.model_copy(update={"kafka_url": "127.0.0.1:9"}), secret=secret) as running:
        running.other_secret = other  # type: ignore[attr-defined]
        yield running


@pytest.fixture(autouse=True)
def _nothing_held_before_it(migrated: Settings, server: Server) -> None:
    execute(migrated, [("DELETE FROM holds", ())])


def reserve(server: Server, usage_type: object = "DEEP", quantity: object = 1, key: object = None, **over: object) -> Answer:
    body = {
        "tenantId": TENANT,
        "usageType": usage_type,
        "sourceService": SERVICE,
        "sourceEntityId": f"job_{uuid.uuid4().hex}",
        "quantity": quantity,
        "ttlSeconds": 60,
    } | over
    return server.ask("POST", RESERVATIONS, body, headers={} if key is None else {"Idempotency-Key": str(key)})


def held(server: Server, usage_type: str = "DEEP") -> object:
    return server.check(tenantId=TENANT, usageType=usage_type)["reserved"]


def act(server: Server, hold_id: str, what: str, body: object = None) -> Answer:
    return server.ask("POST", f"{RESERVATIONS}/{hold_id}/{what}", body)


def test_two_hundred_clients_race_for_a_limit_of_a_hundred_and_exactly_a_hundred_succeed(server: Server) -> None:
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda _: reserve(server, "RACED"), range(CLIENTS)))
    granted = [answer for answer in answers if answer.status == 201]
    refused = [answer for answer in answers if answer.status == 409]
    assert (len(granted), len(refused)) == (100, 100), {answer.status for answer in answers}
    assert {answer.json["code"] for answer in refused} == {"limit_exceeded"}
    assert sorted(answer.json["remaining"] for answer in granted) == list(range(100))
    assert len({answer.json["reservationId"] for answer in granted}) == 100
    assert held(server, "RACED") == 100


def test_what_is_reserved_is_not_granted_again_until_it_is_given_back(server: Server) -> None:
    first = reserve(server, quantity="9.999999")
    assert (first.status, str(first.json["remaining"]), first.json["reason"]) == (201, "0.000001", "within_plan")
    assert set(first.json) == {"reservationId", "expiresAt", "remaining", "reason"}
    refused = reserve(server, quantity="0.000002")
    assert (refused.status, refused.json["code"]) == (409, "limit_exceeded")
    assert server.check(tenantId=TENANT, usageType="DEEP", quantity="0.000002")["allowed"] is False
    assert reserve(server, quantity="0.000001").status == 201
    for _ in range(2):
        released = act(server, first.json["reservationId"], "release")
        assert (released.status, released.json["state"]) == (200, "released")
    assert str(held(server)) == "0.000001"
    late = act(server, first.json["reservationId"], "settle")
    assert (late.status, late.json["code"]) == (409, "already_released")


@pytest.mark.parametrize(
    ("over", "code"),
    [
        ({"usage_type": "UNPLANNED"}, "not_in_plan"),
        ({"usage_type": "OFF"}, "feature_disabled"),
        ({"tenantId": PLANLESS}, "no_subscription"),
        ({"tenantId": "nobody"}, "unknown_tenant"),
    ],
)
def test_what_a_check_denies_cannot_be_reserved_and_the_code_is_its_reason(
    server: Server, over: dict[str, object], code: str
) -> None:
    answer = reserve(server, **over)
    assert (answer.status, answer.json["code"]) == (409, code)


def test_a_soft_limit_and_none_at_all_are_granted_beyond(server: Server) -> None:
    soft = reserve(server, "SOFT", 11)
    assert (soft.status, soft.json["remaining"], soft.json["reason"]) == (201, 0, "overage")
    free = reserve(server, "FREE", 5)
    assert (free.status, free.json["remaining"], free.json["reason"]) == (201, None, "unlimited")


def test_settling_holds_what_was_used_fixes_it_and_repeats_its_answer(server: Server, migrated: Settings) -> None:
    hold_id = reserve(server, quantity=4).json["reservationId"]
    body = {"quantity": "2.5", "metadata": {"model": "large"}}
    first = act(server, hold_id, "settle", body)
    assert first.status == 200, first.body
    assert (first.json["state"], str(first.json["quantity"]), first.json["expired"]) == ("settled", "2.5", False)
    assert act(server, hold_id, "settle", body).body == first.body
    assert act(server, hold_id, "settle", {**body, "quantity": 2.5}).body == first.body
    for other in ({"quantity": 2}, None, {**body, "occurredAt": first.json["occurredAt"]}):
        answer = act(server, hold_id, "settle", other)
        assert (answer.status, answer.json["code"]) == (409, "already_settled")
    answer = act(server, hold_id, "release")
    assert (answer.status, answer.json["code"]) == (409, "already_settled")
    assert str(held(server)) == "2.5"
    with connect(migrated) as connection:
        sql = "SELECT topic, value, headers->>'schema-version' FROM outbox JOIN holds ON outbox_id = id WHERE hold_id = %s"
        rows = connection.execute(sql, (hold_id,)).fetchall()
    assert len(rows) == 1
    assert (rows[0][0], rows[0][2]) == (migrated.topic_events, "1")
    assert b'"quantity":"2.5"' in bytes(rows[0][1])
    assert first.json["occurredAt"].encode() in bytes(rows[0][1])
    shown = server.ask("GET", f"{RESERVATIONS}/{hold_id}").json
    assert (shown["state"], shown["quantity"], str(shown["held"]), shown["settled"]["counted"]) == ("settled", 4, "2.5", False)
    assert "position" not in shown["settled"]


def test_more_may_be_used_than_was_reserved_and_an_empty_body_is_what_was_reserved(server: Server) -> None:
    more = reserve(server, quantity=1).json["reservationId"]
    assert act(server, more, "settle", {"quantity": 3}).json["quantity"] == 3
    same = reserve(server, quantity="1.5").json["reservationId"]
    assert str(act(server, same, "settle").json["quantity"]) == "1.5"
    assert str(held(server)) == "4.5"


def test_an_expired_hold_holds_nothing_is_swept_and_settles_all_the_same(server: Server, migrated: Settings) -> None:
    before, after = (reserve(server, quantity=3, ttlSeconds=1).json["reservationId"] for _ in range(2))
    execute(migrated, [("UPDATE holds SET created_at = created_at - interval '1 hour', expires_at = now()", ())])
    assert held(server) == 0

    def state(hold_id: str) -> str:
        return str(server.ask("GET", f"{RESERVATIONS}/{hold_id}").json["state"])

    assert state(before) == "expired"
    late = act(server, before, "settle")
    assert (late.status, late.json["expired"], held(server)) == (200, True, 3)
    wait_until("the orphan is swept", lambda: _rows(migrated, "state = 'expired' AND done_at IS NOT NULL") == 1)
    assert state(after) == "expired"
    late = act(server, after, "settle", {"quantity": 1})
    assert (late.status, late.json["expired"], held(server)) == (200, True, 4)
    assert _rows(migrated, "done_at IS NULL") == 2


def _rows(settings: Settings, condition: str) -> int:
    with connect(settings) as connection:
        row = connection.execute(f"SELECT count(*) FROM holds WHERE {condition}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_a_request_key_reserves_once_also_when_asked_many_times_at_once(server: Server) -> None:
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: reserve(server, key=key, sourceEntityId="job_1"), range(16)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    assert held(server) == 1
    for over in ({"quantity": 2}, {"usage_type": "SOFT"}):
        reused = reserve(server, key=key, sourceEntityId="job_1", **over)
        assert (reused.status, reused.json["code"]) == (422, "idempotency_key_reused")
    assert reserve(server, key="not a key").json["code"] == "bad_idempotency_key"


def test_a_reservation_is_its_tenants_and_its_services_alone(server: Server) -> None:
    other = server.other_secret  # type: ignore[attr-defined]
    hold_id = reserve(server).json["reservationId"]
    for what in ("settle", "release"):
        answer = server.ask("POST", f"{RESERVATIONS}/{hold_id}/{what}", secret=other)
        assert (answer.status, answer.json["code"]) == (403, "source_not_allowed")
    for nowhere in (str(uuid.uuid4()), "1", "%2e%2e"):
        for what in ("settle", "release"):
            answer = act(server, nowhere, what)
            assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert server.ask("GET", f"{RESERVATIONS}/{uuid.uuid4()}").status == 404
    assert server.ask("POST", RESERVATIONS, {}, secret=None).status == 401


@pytest.mark.parametrize(
    ("over", "code"),
    [
        ({"ttlSeconds": 0}, "bad_ttl"),
        ({"ttlSeconds": 604_801}, "bad_ttl"),
        ({"ttlSeconds": "60"}, "bad_type"),
        ({"quantity": -1}, "negative_quantity"),
        ({"quantity": "1e3"}, "bad_quantity"),
        ({"sourceEntityId": ""}, "bad_id"),
        ({"more": 1}, "unknown_field"),
    ],
)
def test_a_reservation_that_breaks_a_rule_is_refused_by_it(server: Server, over: dict[str, object], code: str) -> None:
    answer = reserve(server, **over)
    assert (answer.status, answer.json["code"]) == (400, code)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"quantity": -1}, "negative_quantity"),
        ({"occurredAt": "yesterday"}, "bad_occurred_at"),
        ({"occurredAt": "2020-01-01T00:00:00Z"}, "too_old"),
        ({"occurredAt": "2120-01-01T00:00:00Z"}, "too_far_ahead"),
        ({"metadata": [1]}, "bad_metadata"),
        ({"metadata": {"m": "x" * (33 << 10)}}, "metadata_too_large"),
        ({"quantities": 1}, "unknown_field"),
    ],
)
def test_what_the_consumer_would_refuse_is_not_promised(server: Server, body: object, code: str) -> None:
    hold_id = reserve(server).json["reservationId"]
    answer = act(server, hold_id, "settle", body)
    assert (answer.status, answer.json["code"]) == (400, code)
    assert server.ask("GET", f"{RESERVATIONS}/{hold_id}").json["state"] == "open"


def test_the_examples_of_the_guide_are_taken_and_answered_as_it_shows(server: Server, migrated: Settings) -> None:
    text = (ROOT / "docs" / "reservations.md").read_text("utf-8")
    blocks = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    asked, granted, used, settled = blocks
    answer = server.ask("POST", RESERVATIONS, {**asked, "tenantId": TENANT, "usageType": "DEEP"})
    assert (answer.status, set(answer.json)) == (201, set(granted))
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    said = act(server, answer.json["reservationId"], "settle", {**used, "occurredAt": now})
    assert (said.status, set(said.json), str(said.json["quantity"])) == (200, set(settled), str(settled["quantity"]))
