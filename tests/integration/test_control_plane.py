"""The HTTP surface itself, with a noun of its own over real Postgres: who is let in, what is read, what is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Body
from pydantic import BaseModel, ConfigDict, SecretStr
from sqlalchemy import text

from control_plane.http import app as application
from control_plane.http.calls import Here
from control_plane.http.envelope import Answer, listed, success
from control_plane.http.paging import Cursor, Limit, after_cursor, cursor_of
from control_plane.http.routes import WRITERS, Routes
from control_plane.refusals import Refusal
from runtime.postgres import connect
from runtime.settings import Settings
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.tokens import USER_SECRET, user_token


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: Decimal
    tenant: str | None = None


@dataclass
class Made:
    """What the noun was asked to do, and what holds it up."""

    amounts: list[Decimal]
    go_on: threading.Event
    inside: threading.Event
    fails: bool = False


def noun(made: Made) -> Routes:
    routes = Routes("things")

    @routes.post("/api/things", WRITERS, status=201)
    def create(call: Here, order: Annotated[Order, Body()]) -> Answer:
        def act() -> Answer:
            made.inside.set()
            assert made.go_on.wait(10)
            with call.unit() as unit:
                unit.sql.execute(text("SELECT 1"))
            if made.fails:
                raise Refusal("conflict", "not_now", "Not now; send it again.")
            made.amounts.append(order.amount)
            return success({"amount": order.amount, "tenant": call.tenant(order.tenant), "number": len(made.amounts)}, 201)

        return call.once(act)

    @routes.get("/api/things", WRITERS)
    def page(call: Here, limit: Limit = 2, cursor: Cursor = "") -> Answer:
        after = after_cursor(cursor, int)
        start = 0 if after is None else int(after[0])
        return listed([{"n": n} for n in range(start, start + limit)], cursor_of(start + limit), limit)

    return routes


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    with connect(migrated) as connection:
        connection.execute("INSERT INTO tenants (tenant_id) VALUES ('t1'), ('t2')")
    return migrated.model_copy(update={"jwt_access_secret": SecretStr(USER_SECRET), "http_body_max": 4_096})


@pytest.fixture
def made() -> Made:
    found = Made([], threading.Event(), threading.Event())
    found.go_on.set()
    return found


@pytest.fixture
def client(configured: Settings, made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr(application, "NOUNS", (noun(made),))
    with control_plane_served(configured) as client:
        client.headers.update(admin())
        yield client


def admin(tenant: str = "t1", subject: str = "a1") -> dict[str, str]:
    return {"Authorization": f"Bearer {user_token(subject, role='admin', tenantId=tenant)}"}


def code_of(answered: httpx.Response) -> tuple[int, str]:
    body = answered.json()
    assert body["status"] == "error"
    assert body["error"]["requestId"] == answered.headers["X-Request-Id"]
    return answered.status_code, body["error"]["code"]


def post(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post("/api/things", content=body, headers={"Content-Type": "application/json", **headers})


def test_a_number_comes_out_as_exactly_as_it_went_in(client: httpx.Client, made: Made) -> None:
    answered = post(client, b'{"amount": 123456789012.000001}')
    assert answered.status_code == 201
    data: Any = json.loads(answered.content, parse_float=Decimal)["data"]
    assert data == {"amount": Decimal("123456789012.000001"), "tenant": "t1", "number": 1}
    assert made.amounts == [Decimal("123456789012.000001")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"amount": NaN}', (400, "malformed_json")),
        (b'{"amount": Infinity}', (400, "malformed_json")),
        (b'{"amount": ' + b"1" * 100 + b"}", (400, "malformed_json")),
        (b'{"amount": 1', (400, "malformed_json")),
        (b'{"amount": 1, "tenant": "\xff"}', (400, "not_utf8")),
        (b"[" * 40 + b"]" * 40, (400, "too_deep")),
        (b"[" * 100_000, (413, "too_large")),
        (b'{"amount": "x"}', (400, "invalid_request")),
        (b'{"amount": 1, "colour": "red"}', (400, "invalid_request")),
        (b"", (400, "invalid_request")),
        (b'{"amount": 1, "tenant": "t2"}', (404, "not_found")),
    ],
)
def test_what_cannot_be_taken_is_told_why(client: httpx.Client, body: bytes, expected: tuple[int, str]) -> None:
    assert code_of(post(client, body)) == expected


def test_a_field_that_is_wrong_is_named_and_what_was_sent_is_not_repeated(client: httpx.Client) -> None:
    answered = post(client, b'{"amount": "secret-of-mine"}')
    error = answered.json()["error"]
    assert [field["field"] for field in error["details"]["fields"]] == ["amount"]
    assert "secret-of-mine" not in answered.text


def test_who_may_not_come_in_is_told_before_anything_is_read(client: httpx.Client) -> None:
    assert code_of(post(client, b"[" * 100_000, Authorization="Bearer nonsense")) == (401, "wrong_token")
    user = f"Bearer {user_token('u1', tenantId='t1')}"
    assert code_of(post(client, b"[" * 100_000, Authorization=user)) == (403, "role_not_allowed")


def test_paths_and_methods_that_there_are_not_are_refused_as_everything_else_is(client: httpx.Client) -> None:
    assert code_of(client.get("/api/nothing")) == (404, "no_such_route")
    assert code_of(client.put("/api/things", json={})) == (404, "method_not_allowed")


def test_a_repetition_under_its_key_is_answered_the_same_and_not_done_again(client: httpx.Client, made: Made) -> None:
    first = post(client, b'{"amount": 1}', **{"Idempotency-Key": "k1"})
    again = post(client, b'{"amount": 1}', **{"Idempotency-Key": "k1"})
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(made.amounts) == 1
    assert code_of(post(client, b'{"amount": 2}', **{"Idempotency-Key": "k1"})) == (422, "idempotency_key_reused")
    somebody_else = post(client, b'{"amount": 2}', **{"Idempotency-Key": "k1"}, **admin(subject="a2"))
    assert somebody_else.status_code == 201


def test_a_refusal_is_not_kept_under_a_key(client: httpx.Client, made: Made) -> None:
    made.fails = True
    assert code_of(post(client, b'{"amount": 1}', **{"Idempotency-Key": "k2"})) == (409, "not_now")
    made.fails = False
    assert post(client, b'{"amount": 1}', **{"Idempotency-Key": "k2"}).status_code == 201


def test_a_repetition_while_the_first_is_under_way_does_nothing_and_one_whose_process_died_is_taken_over(
    client: httpx.Client, made: Made, configured: Settings
) -> None:
    made.go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client, b'{"amount": 1}', **{"Idempotency-Key": "k3"})
        assert made.inside.wait(10)
        assert code_of(post(client, b'{"amount": 1}', **{"Idempotency-Key": "k3"})) == (409, "idempotency_key_in_use")
        made.go_on.set()
        assert first.result(20).status_code == 201
    with connect(configured) as connection:
        connection.execute(
            "UPDATE idempotency_keys SET status = NULL, answer = NULL, started_at = now() - interval '61 s' WHERE key = 'k3'"
        )
    assert post(client, b'{"amount": 1}', **{"Idempotency-Key": "k3"}).json()["data"]["number"] == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9"])
def test_a_key_that_cannot_be_kept_is_refused(client: httpx.Client, key: str) -> None:
    sent = client.post("/api/things", json={"amount": 1}, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert code_of(sent) == (400, "bad_idempotency_key")


def test_lists_go_on_where_the_last_page_ended_and_a_made_up_cursor_is_refused(client: httpx.Client) -> None:
    first = client.get("/api/things").json()
    assert first["data"] == [{"n": 0}, {"n": 1}]
    second = client.get("/api/things", params={"cursor": first["page"]["nextCursor"]}).json()
    assert second["data"] == [{"n": 2}, {"n": 3}]
    for made_up in ("x", "!!!!", cursor_of("text"), cursor_of(1, 2), cursor_of(True)):
        assert code_of(client.get("/api/things", params={"cursor": made_up})) == (400, "bad_cursor")
    assert code_of(client.get("/api/things", params={"limit": 0})) == (400, "invalid_request")


def test_probes_are_open_and_name_each_dependency(client: httpx.Client) -> None:
    assert client.get("/api/health", headers={"Authorization": ""}).json()["data"] == {"status": "ok"}
    looked = client.get("/ready").json()["data"]
    assert looked == {"ready": True, "checks": {"postgres": "ok", "migrations": "ok", "credentials": "ok"}}
    assert "meterline_http_requests_total" in client.get("/metrics").text
