"""A Postgres that recovers, then one that is a standby, for real: refused or tried again clearly, and no number is wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from deploy.embedded.postgres import Postgres, data_folder, forget
from deploy.embedded.stack import StackAddresses
from store.migrate import migrate_clickhouse, migrate_postgres
from store.topics import apply
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, serving
from tests.integration.test_bad_infrastructure import Running
from tests.integration.test_consume_crashes import publish
from tests.running_stack import corner

CHECK = {"tenantId": TENANT, "usageType": "DEEP"}
HOLD = CHECK | {"sourceService": SERVICE, "sourceEntityId": "job_1", "quantity": 1, "ttlSeconds": 60}
PROMOTED_WITHIN_S = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    made = Postgres(tmp_path / "postgres", log=lambda line: None, durable=False)
    made.start()
    yield made
    made.stop()
    forget(made.home)


@contextmanager
def standby(server: Postgres, *, readable: bool) -> Iterator[None]:
    """Within, the server recovers for ever, as a standby whose primary is silent. Behind it, it has been promoted."""
    server.stop()
    data = data_folder(server.home)
    (data / "standby.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(f"hot_standby = {'on' if readable else 'off'}\n")
    starting = server.starting()  # which would wait until it answers
    next(starting)
    yield
    (data / "promote").touch()
    assert server.child is not None
    os.kill(server.child.pid, signal.SIGUSR1)
    deadline = time.monotonic() + PROMOTED_WITHIN_S
    for _ in starting:
        assert time.monotonic() < deadline, server.child.tail()
        time.sleep(0.02)
    wait_until("promoted", lambda: asked(server, "SELECT pg_is_in_recovery()") == "False", PROMOTED_WITHIN_S)


def asked(server: Postgres, sql: str) -> str:
    """The one value that the server answers, or what it says instead."""
    try:
        with psycopg.connect(server.url, connect_timeout=5) as connection:
            row = connection.execute(sql.encode()).fetchone()
    except psycopg.OperationalError as error:
        return str(error)
    assert row is not None
    return str(row[0])


def test_a_server_in_recovery_and_a_standby_are_waited_for_and_nothing_is_lost(
    stack: StackAddresses, server: Postgres, tmp_path: Path
) -> None:
    for settings in corner(replace(stack, postgres=server.url), "recovers", tmp_path):
        migrate_postgres(settings)
        migrate_clickhouse(settings)
        apply(settings)
        secret, _ = put_catalog(settings)
        with Pipeline(settings, tmp_path) as pipeline, serving(settings, secret=secret) as edge:
            running = Running(pipeline)
            publish(pipeline, 0, 50)
            pipeline.settle()
            assert edge.check(**CHECK)["allowed"]

            with standby(server, readable=False):
                wait_until("57P03", lambda: "not accepting connections" in asked(server, "SELECT 1"))
                publish(pipeline, 1, 50)
                running.refused_by("aggregate", "postgres", "not accepting connections")
                assert_away(edge, "/v1/billing/entitlements/check", CHECK)
                assert_away(edge, "/v1/billing/reservations", HOLD)
            running.goes_on()
            wait_until("checks again", lambda: edge.ask("POST", "/v1/billing/entitlements/check", CHECK).status == 200)

            with standby(server, readable=True):
                wait_until("a standby", lambda: asked(server, "SELECT pg_is_in_recovery()") == "True")
                publish(pipeline, 2, 50)
                running.refused_by("aggregate", "postgres", "read-only")
                wait_until("a check reads", lambda: edge.ask("POST", "/v1/billing/entitlements/check", CHECK).status == 200)
                assert_away(edge, "/v1/billing/reservations", HOLD)
                assert edge.check(**CHECK)["allowed"], "one who only reads is not held up by one who cannot write"
            running.goes_on()
            assert edge.ask("POST", "/v1/billing/reservations", HOLD).status == 201


def assert_away(edge: Server, path: str, body: object) -> None:
    answer = edge.ask("POST", path, body)
    assert (answer.status, answer.json["code"]) == (503, "store_unavailable"), answer.body
