"""Postgres or Kafka away, at the start and in the middle: said, survived, and nothing lost or falsely promised."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from deploy.embedded.processes import free_port
from meterline.spool import read_frames
from runtime.settings import Settings
from tests.fakes.proxy import Proxy, proxy
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, execute, serving

CHECK = {"tenantId": TENANT, "usageType": "DEEP"}


def event(entity: str, **over: object) -> dict[str, object]:
    return {**CHECK, "quantity": 1, "sourceService": SERVICE, "sourceEntityId": entity, **over}


@pytest.fixture(scope="module")
def secret(migrated: Settings) -> str:
    return put_catalog(migrated)[0]


@pytest.fixture
def policies(migrated: Settings) -> Iterator[None]:
    """SOFT and FREE fail open, LIFE fails closed; the other limits say nothing. FREE is limited."""
    say = "UPDATE plan_limits SET when_unavailable = %s WHERE usage_type = ANY(%s)"
    limit = "UPDATE plan_limits SET quantity = %s WHERE usage_type = 'FREE'"
    execute(migrated, [(say, ("fail_open", ["SOFT", "FREE"])), (say, ("fail_closed", ["LIFE"])), (limit, (10,))])
    yield
    execute(migrated, [(say, (None, ["SOFT", "FREE", "LIFE"])), (limit, (None,))])


@pytest.fixture
def cable(migrated: Settings) -> Iterator[tuple[Settings, Proxy]]:
    """Settings whose Postgres is reached through a proxy."""
    url = urlsplit(migrated.postgres_url.get_secret_value())
    with proxy(url.hostname or "", url.port or 5432) as made:
        address = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{made.port}").geturl()
        yield migrated.model_copy(update={"postgres_url": SecretStr(address), "postgres_timeout_s": 2.0}), made


def until(look: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_ready(server: Server) -> bool:
    return server.ask("GET", "/ready", secret=None).status == 200


def test_postgres_away_in_the_middle_denies_nothing_and_allows_nothing_where_nobody_said_what(
    cable: tuple[Settings, Proxy], secret: str
) -> None:
    settings, made = cable
    with serving(settings, secret=secret) as server:
        until(lambda: is_ready(server))
        assert server.ask("POST", "/v1/billing/usage", event("before")).status == 202
        assert server.check(**CHECK)["allowed"]
        made.cut()
        for _ in range(5):
            began = time.monotonic()
            answer = server.ask("POST", "/v1/billing/entitlements/check", CHECK)
            assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
            assert answer.headers["retry-after"] == "1"
            assert "allowed" not in answer.json
            assert time.monotonic() - began < settings.postgres_timeout_s + 2
        assert server.ask("GET", f"/v1/billing/summaries/{TENANT}").status == 503
        # Usage of names that passed before goes on: the log is there.
        assert server.ask("POST", "/v1/billing/usage", event("meanwhile")).json["state"] == "acked"
        unknown = server.ask("POST", "/v1/billing/usage", event("x", tenantId="never seen"))
        assert (unknown.status, unknown.json["code"]) == (503, "store_unavailable")
        until(lambda: not is_ready(server))
        checks = server.ask("GET", "/ready", secret=None).json["checks"]
        assert checks["postgres"] != "ok"
        assert checks["kafka"] == "ok"
        assert server.ask("GET", "/health", secret=None).status == 200
        made.join()
        until(lambda: is_ready(server))
        assert server.check(**CHECK)["allowed"]


def test_postgres_away_is_answered_as_each_limit_says_from_what_was_known_and_how_old_that_is(
    cable: tuple[Settings, Proxy], secret: str, policies: None
) -> None:
    settings, made = cable
    settings = settings.model_copy(update={"degraded_age_max_s": 4})
    with serving(settings, secret=secret) as server:
        until(lambda: is_ready(server))
        known = {usage_type: server.check(tenantId=TENANT, usageType=usage_type) for usage_type in ("SOFT", "LIFE", "FREE")}
        made.cut()
        cut_at = time.monotonic()

        def ask(**check: object) -> dict[str, object]:
            said: dict[str, object] = server.check(**{"tenantId": TENANT, **check})
            return said

        open_one = ask(usageType="SOFT", quantity=3)
        assert (open_one["allowed"], open_one["reason"], open_one["limit"]) == (True, "degraded_allow", 10)
        assert open_one["asOf"] == known["SOFT"]["asOf"]
        assert open_one["ageSeconds"] in range(int(time.monotonic() - cut_at) + 3)
        closed = ask(usageType="LIFE")
        assert (closed["allowed"], closed["reason"], closed["hardStop"]) == (False, "degraded_deny", True)
        # An outage does not make room: what the last known state denies stays denied.
        assert ask(usageType="FREE", quantity=11)["reason"] == "degraded_deny"
        # What was never looked up, and a feature: by the default, which is closed.
        for unknown in ({"tenantId": "never seen", "usageType": "SOFT"}, {"feature": "analysis"}):
            said = ask(**unknown)
            assert (said["reason"], "ageSeconds" in said) == ("degraded_deny", False)
        # Known to be away, nobody waits for it.
        began = time.monotonic()
        for _ in range(20):
            ask(usageType="SOFT")
        assert time.monotonic() - began < settings.postgres_timeout_s
        batch = [{"tenantId": TENANT, "usageType": usage_type} for usage_type in ("SOFT", "LIFE")]
        results = server.ask("POST", "/v1/billing/entitlements/check/batch", batch).json["results"]
        assert [result["reason"] for result in results] == ["degraded_allow", "degraded_deny"]
        # Too old to be said any more.
        until(lambda: ask(usageType="SOFT")["reason"] == "degraded_deny")
        made.join()
        until(lambda: ask(usageType="SOFT")["reason"] == "within_plan")
        assert "ageSeconds" not in ask(usageType="LIFE")


def test_the_default_for_what_is_not_known_may_be_open_or_a_refusal(cable: tuple[Settings, Proxy], secret: str) -> None:
    settings, made = cable
    for default, status in (("fail_open", 200), ("unavailable", 503)):
        with serving(settings.model_copy(update={"degraded_default": default}), secret=secret) as server:
            until(lambda: is_ready(server))
            server.check(**CHECK)
            made.cut()
            answer = server.ask("POST", "/v1/billing/entitlements/check", {"tenantId": "never seen", "usageType": "DEEP"})
            assert answer.status == status
            if status == 200:
                assert (answer.json["allowed"], answer.json["reason"]) == (True, "degraded_allow")
            made.join()


def test_postgres_away_at_the_start_is_waited_for(cable: tuple[Settings, Proxy], secret: str) -> None:
    settings, made = cable
    made.cut()
    with serving(settings, secret=secret) as server:
        # Not even who asks can be known.
        answer = server.ask("POST", "/v1/billing/entitlements/check", CHECK)
        assert (answer.status, answer.json["code"]) == (503, "store_unavailable")
        assert server.ask("GET", "/ready", secret=None).json["checks"]["postgres"] != "ok"
        made.join()
        until(lambda: is_ready(server))
        until(lambda: server.ask("POST", "/v1/billing/entitlements/check", CHECK).status == 200)
        assert server.ask("POST", "/v1/billing/usage", event("after")).status == 202


def test_kafka_away_spools_with_a_time_and_without_a_position_until_the_spool_is_full(
    migrated: Settings, secret: str, tmp_path: Path
) -> None:
    settings = migrated.model_copy(
        update={"kafka_url": f"127.0.0.1:{free_port()}", "spool_dir": tmp_path / "spool", "spool_bytes_max": 1 << 16}
    )
    with serving(settings, secret=secret) as server:
        ready = server.ask("GET", "/ready", secret=None)
        assert ready.status == 503
        assert ready.json["checks"]["kafka"] != "ok"
        assert ready.json["checks"]["postgres"] == "ok"
        first = server.ask("POST", "/v1/billing/usage?wait=counted&timeout=1s", event("s1"))
        assert (first.status, first.json) == (202, {"state": "spooled", "counted": False})
        # A check needs no log.
        assert server.check(**CHECK)["allowed"]
        large = {"metadata": {"fill": "x" * 32_700}}
        assert server.ask("POST", "/v1/billing/usage", event("s2", **large)).json["state"] == "spooled"
        full = server.ask("POST", "/v1/billing/usage", event("s3", **large))
        assert (full.status, full.json["code"], full.headers["retry-after"]) == (503, "log_unavailable", "1")
        batch = server.ask("POST", "/v1/billing/usage/batch", [event("s4", **large)])
        assert (batch.status, batch.json["code"]) == (503, "log_unavailable")
    segments = sorted((tmp_path / "spool").rglob("*.segment"))
    values = [json.loads(record.value) for path in segments for record in read_frames(path.read_bytes()).records]
    assert [value["sourceEntityId"] for value in values] == ["s1", "s2"]
    # Spooled, it may reach the log much later: now it says when it happened.
    assert all(value["occurredAt"] for value in values)


def test_a_stop_in_the_middle_of_requests_answers_them(migrated: Settings, secret: str) -> None:
    with serving(migrated, secret=secret) as server, ThreadPoolExecutor(8) as clients:
        until(lambda: is_ready(server))
        waiting = [
            clients.submit(server.ask, "POST", "/v1/billing/usage?wait=counted&timeout=2s", event(f"stop{n}")) for n in range(8)
        ]
        acked = b'meterline_usage_taken_total{outcome="acked"} 8.0'
        until(lambda: acked in server.ask("GET", "/metrics", secret=None).body)
        server.stop()
        answers = [future.result(timeout=15) for future in waiting]
        assert [answer.json["state"] for answer in answers] == ["acked"] * 8
        assert server.process.wait(timeout=migrated.stop_within_s) == 0
