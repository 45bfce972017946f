"""Webhooks from the socket to what they change: kept before they are acknowledged, worked off once, in any order."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from cli.commands.webhooks import command as webhooks_command
from control_plane.parts import Parts, parts_of
from control_plane.webhooks import worker
from control_plane.webhooks.messages import clerk_message
from control_plane.webhooks.worker import Worker
from runtime import postgres
from runtime.exits import MeterlineExit
from runtime.settings import Settings
from store import inbox, reconcile_requests
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.webhook_senders import clerk_headers, stripe_event, stripe_header
from tests.integration.serving import environment

STRIPE_OLD, STRIPE_NEW = "whsec_the-old-one", "whsec_the-new-one"
CLERK = "whsec_" + "c" * 40
METER_TROUBLE = "v1.billing.meter.no_meter_found"


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    return migrated.model_copy(
        update={
            "stripe_secret_key": SecretStr("sk_test_of_nobody"),
            "stripe_webhook_secret": SecretStr(f"{STRIPE_NEW}, {STRIPE_OLD}"),
            "clerk_webhook_secret": SecretStr(CLERK),
        }
    )


@pytest.fixture(scope="module")
def client(configured: Settings) -> Iterator[httpx.Client]:
    with control_plane_served(configured) as client:
        yield client


@pytest.fixture(scope="module")
def parts(configured: Settings) -> Iterator[Parts]:
    parts = parts_of(configured)
    yield parts
    parts.units.close()


@pytest.fixture
def connection(configured: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(configured, autocommit=True) as connection:
        connection.execute("TRUNCATE inbox, clerk_objects, reconcile_requests, users, tenants CASCADE")
        yield connection


def post(client: httpx.Client, body: bytes, *, secret: str = STRIPE_NEW, off_s: int = 0) -> httpx.Response:
    headers = {"Stripe-Signature": stripe_header(body, secret, int(time.time()) + off_s)}
    return client.post("/api/webhooks/stripe", content=body, headers=headers)


def thin(event_id: str, **over: Any) -> bytes:
    event = {"object": "v2.core.event", "id": event_id, "type": METER_TROUBLE, "livemode": False, "related_object": None}
    return json.dumps({**event, **over}).encode()


def code_of(answered: httpx.Response) -> tuple[int, str]:
    return answered.status_code, answered.json()["error"]["code"]


def work(parts: Parts, connection: psycopg.Connection[Any]) -> int:
    """Turns until nothing is due."""
    worked = 0
    while taken := Worker(parts).turn(connection, threading.Event()):
        worked += taken
    return worked


def states(connection: psycopg.Connection[Any]) -> dict[str, tuple[str, int]]:
    return {row.name.message_id: (row.state, row.attempts) for row in inbox.listed(connection, None, None, 1_000)}


@pytest.mark.parametrize("secret", [STRIPE_OLD, STRIPE_NEW])
def test_a_webhook_is_kept_before_it_is_acknowledged_whichever_secret_signed_it(
    client: httpx.Client, connection: psycopg.Connection[Any], secret: str
) -> None:
    answered = post(client, thin("evt_1"), secret=secret)
    assert (answered.status_code, answered.json()["data"]) == (200, {"id": "evt_1", "repeated": False})
    assert states(connection) == {"evt_1": ("waiting", 0)}


def test_a_repeated_webhook_is_acknowledged_and_kept_once(client: httpx.Client, connection: psycopg.Connection[Any]) -> None:
    assert [post(client, thin("evt_1")).json()["data"]["repeated"] for _ in range(3)] == [False, True, True]
    assert list(states(connection)) == ["evt_1"]


def test_one_id_of_two_accounts_or_modes_is_two_webhooks(connection: psycopg.Connection[Any]) -> None:
    names = [inbox.Name("stripe", account, live, "evt_1") for account in ("", "acct_2") for live in (False, True)]
    assert [inbox.put(connection, name, METER_TROUBLE, "", {}) for name in [*names, *names]] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("body", "secret", "off_s", "expected"),
    [
        (thin("evt_1"), "whsec_of_nobody", 0, "wrong_signature"),
        (thin("evt_1"), STRIPE_NEW, -301, "stale_signature"),
        (thin("evt_1"), STRIPE_NEW, 302, "stale_signature"),
        (b"\xff\xfe not UTF-8", STRIPE_NEW, 0, "bad_webhook"),
        (b"no JSON", STRIPE_NEW, 0, "bad_webhook"),
        (thin("evt_1", livemode=True), STRIPE_NEW, 0, "wrong_livemode"),
    ],
)
def test_what_is_not_stripes_is_refused_with_400_and_not_kept(
    client: httpx.Client, connection: psycopg.Connection[Any], body: bytes, secret: str, off_s: int, expected: str
) -> None:
    assert code_of(post(client, body, secret=secret, off_s=off_s)) == (400, expected)
    assert states(connection) == {}


def test_a_sender_that_is_not_configured_is_told_so(client: httpx.Client) -> None:
    assert code_of(client.post("/api/webhooks/lago", content=b"{}")) == (503, "webhooks_not_configured")
    assert code_of(client.post("/api/webhooks/stripe", content=b"{}")) == (400, "bad_signature")


def test_trouble_with_meter_events_asks_the_exporter_to_compare(
    client: httpx.Client, connection: psycopg.Connection[Any], parts: Parts
) -> None:
    for number in range(3):
        assert post(client, thin(f"evt_{number}")).is_success
    assert work(parts, connection) == 3
    waiting = reconcile_requests.waiting(connection)
    assert waiting
    reconcile_requests.served(connection, waiting)
    assert reconcile_requests.waiting(connection) == []
    assert set(states(connection).values()) == {("done", 1)}


def test_what_nobody_here_handles_is_done_at_once(
    client: httpx.Client, connection: psycopg.Connection[Any], parts: Parts
) -> None:
    assert post(client, stripe_event("evt_1", "charge.succeeded", {"id": "ch_1"})).is_success
    work(parts, connection)
    assert states(connection) == {"evt_1": ("done", 1)}


def test_what_fails_waits_longer_each_time_is_dead_in_the_end_and_is_replayed(
    client: httpx.Client,
    connection: psycopg.Connection[Any],
    parts: Parts,
    configured: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    post(client, thin("evt_1"))
    broken = True

    def fails(*arguments: Any) -> bool:
        if broken:
            raise KeyError("a defect")
        return True

    monkeypatch.setattr(worker, "handle", fails)
    for attempt in range(1, len(worker.WAITS_S) + 2):
        assert states(connection) == {"evt_1": ("waiting", attempt - 1)}
        work(parts, connection)
        row = inbox.listed(connection, None, None, 1)[0]
        assert row.last_error == "defect: KeyError; the log has the cause"
        if row.next_try_at is not None:
            waits = row.next_try_at - datetime.now(UTC)
            assert abs(waits - timedelta(seconds=worker.WAITS_S[attempt - 1])) < timedelta(seconds=1)
            connection.execute("UPDATE inbox SET next_try_at = now()")
    assert states(connection) == {"evt_1": ("dead", len(worker.WAITS_S) + 1)}
    assert work(parts, connection) == 0

    listed = run(configured, "list", "--state", "dead", "--json")
    (shown,) = json.loads(listed)["webhooks"]
    assert (shown["id"], shown["source"], shown["state"], shown["nextTryAt"]) == ("evt_1", "stripe", "dead", None)
    assert "evt_1" in run(configured, "list")
    assert run(configured, "replay", "stripe", "--dead").startswith("1 to be worked on again")
    assert run(configured, "replay", "clerk", "--dead").startswith("0 to be worked on again")
    broken = False
    work(parts, connection)
    assert states(connection) == {"evt_1": ("done", 1)}
    assert run(configured, "replay", "stripe", "evt_1").startswith("1 to be")
    with pytest.raises(MeterlineExit, match="no webhook evt_9 of stripe"):
        run(configured, "replay", "stripe", "evt_9")
    replays = connection.execute("SELECT subject FROM audit WHERE what = 'webhooks.replayed' ORDER BY id").fetchall()
    assert [subject for (subject,) in replays] == ["stripe: all that were dead", "stripe: evt_1"]


def run(settings: Settings, *arguments: str) -> str:
    result = CliRunner().invoke(webhooks_command, arguments, env=environment(settings))
    if result.exception is not None:
        raise result.exception
    return result.output


def test_what_a_worker_took_is_left_alone_until_its_lease_is_over(
    client: httpx.Client, connection: psycopg.Connection[Any], parts: Parts
) -> None:
    post(client, thin("evt_1"))
    assert [taken.name.message_id for taken in inbox.take(connection, 8)] == ["evt_1"]
    assert work(parts, connection) == 0
    connection.execute("UPDATE inbox SET next_try_at = now()")
    assert work(parts, connection) == 1
    assert states(connection) == {"evt_1": ("done", 2)}


def test_many_workers_share_the_inbox_and_none_does_what_another_has(
    connection: psycopg.Connection[Any], configured: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        inbox.put(connection, inbox.Name("stripe", "", False, f"evt_{number}"), METER_TROUBLE, "", {})
    done: list[str] = []

    def notes(parts: Parts, rows: Sequence[inbox.Taken]) -> bool:
        done.extend(row.name.message_id for row in rows)
        return True

    monkeypatch.setattr(worker, "handle", notes)

    def run_dry() -> None:
        with postgres.connect(configured, autocommit=True) as own:
            work(parts, own)

    threads = [threading.Thread(target=run_dry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == sorted(f"evt_{number}" for number in range(200))


# -- Clerk ---------------------------------------------------------------------------------------------------------


def clerk(kind: str, subject: str, at: int = 0, **data: Any) -> bytes:
    stamped = {"updated_at": at, "created_at": at, **data} if at else {"deleted": True, "object": kind.partition(".")[0]}
    return json.dumps({"object": "event", "type": kind, "data": {"id": subject, **stamped}}).encode()


def organization(kind: str, at: int = 0, name: str = "") -> bytes:
    return clerk(f"organization.{kind}", "org_1", at, **({"name": name} if at else {}))


def person(kind: str, at: int = 0, email: str = "", user_id: str = "user_1") -> bytes:
    addresses = [{"id": "idn_0", "email_address": "other@example.com"}, {"id": "idn_1", "email_address": email}]
    more = {"first_name": "Ada", "email_addresses": addresses, "primary_email_address_id": "idn_1"} if at else {}
    return clerk(f"user.{kind}", user_id, at, **more)


def membership(kind: str, of: str, at: int = 0, since: int = 0) -> bytes:
    more: dict[str, Any] = {"organization": {"id": of}, "public_user_data": {"user_id": "user_1"}}
    if at:
        more["created_at"] = since
    return clerk(f"organizationMembership.{kind}", f"orgmem_{of}", at, **more)


def test_a_webhook_of_clerk_makes_the_tenant_its_users_and_their_places(
    client: httpx.Client, connection: psycopg.Connection[Any], parts: Parts
) -> None:
    for number, body in enumerate(
        (
            organization("created", 10, "Northlight"),
            person("created", 11, "ada@example.com"),
            membership("created", "org_1", 12, 12),
        )
    ):
        headers = clerk_headers(body, CLERK, int(time.time()), f"msg_{number}")
        assert client.post("/api/webhooks/clerk", content=body, headers=headers).is_success
    work(parts, connection)
    assert people(connection) == (
        [("org_1", "Northlight", "active")],
        [("user_1", "Ada", "ada@example.com", "org_1")],
    )
    body = organization("deleted")
    client.post("/api/webhooks/clerk", content=body, headers=clerk_headers(body, CLERK, int(time.time()), "msg_9"))
    work(parts, connection)
    tenants, users = people(connection)
    assert tenants == [("org_1", "Northlight", "inactive")]
    assert users == [("user_1", "Ada", "ada@example.com", "org_1")]
    ((who, tenant),) = connection.execute("SELECT who, tenant_id FROM audit WHERE what = 'clerk.organization.deleted'").fetchall()
    assert (who, tenant) == ("webhook:clerk", "org_1")


def people(connection: psycopg.Connection[Any]) -> tuple[list[Any], list[Any]]:
    """Tenants and users as they stand."""
    return (
        connection.execute("SELECT tenant_id, name, status FROM tenants ORDER BY 1").fetchall(),
        connection.execute("SELECT user_id, username, email, tenant_id FROM users ORDER BY 1").fetchall(),
    )


STORY: Sequence[bytes] = (
    organization("created", 10, "North"),
    person("created", 11, "ada@example.com"),
    membership("created", "org_1", 12, 12),
    organization("updated", 20, "Northlight"),
    membership("created", "org_2", 21, 21),
    person("updated", 22, "ada@northlight.example"),
    membership("updated", "org_1", 23, 12),
    membership("deleted", "org_1"),
    organization("updated", 30, "Northlight Ltd"),
    organization("deleted"),
    person("deleted"),
)


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, len(STORY)), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_of_clerks_messages_leaves_the_same(
    connection: psycopg.Connection[Any], parts: Parts, told: int, shuffled: random.Random
) -> None:
    story = list(STORY[:told])
    seen = list(story) + shuffled.choices(story, k=told // 2)
    shuffled.shuffle(seen)
    found = []
    for messages in (story, seen):
        connection.execute("TRUNCATE inbox, clerk_objects, users, tenants CASCADE")
        for number, body in enumerate(messages):
            message = clerk_message(body, f"msg_{number}")
            name = inbox.Name("clerk", "", False, message.id)
            inbox.put(connection, name, message.kind, message.subject, dict(message.kept))
            work(parts, connection)
        assert {state for state, _ in states(connection).values()} == {"done"}
        found.append(people(connection))
    assert found[0] == found[1]


def test_two_users_of_a_tenant_with_one_address_are_told_and_tried_again_once_one_of_them_has_let_go(
    connection: psycopg.Connection[Any], parts: Parts
) -> None:
    connection.execute("INSERT INTO tenants (tenant_id) VALUES ('org_1')")
    connection.execute(
        "INSERT INTO users (user_id, tenant_id, email, role) VALUES ('u_0', 'org_1', 'ada@example.com', 'user'),"
        " ('user_1', 'org_1', NULL, 'user')"
    )
    message = clerk_message(person("created", 11, "Ada@Example.com"), "msg_1")
    inbox.put(connection, inbox.Name("clerk", "", False, "msg_1"), message.kind, message.subject, dict(message.kept))
    work(parts, connection)
    (row,) = inbox.listed(connection, "clerk", "waiting", 10)
    assert row.last_error is not None
    assert row.last_error.startswith("email_taken: ")
    connection.execute("UPDATE users SET email = NULL WHERE user_id = 'u_0'")
    connection.execute("UPDATE inbox SET next_try_at = now()")
    work(parts, connection)
    assert states(connection) == {"msg_1": ("done", 2)}
