"""Servers that answer, and refuse: nothing is lost, /ready names who refuses, a metric counts it, and it goes on by itself."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without saying so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from deploy.embedded.processes import free_port
from runtime import kafka
from runtime.exits import Exit
from runtime.settings import Settings
from store.topic_state import answer
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.test_consume_crashes import event, publish

TABLES = ("usage_events", "usage_rejects")


class Running:
    """A consumer and an aggregator, each with its ports for /ready and /metrics."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.ports = {"consume": free_port(), "aggregate": free_port()}
        self.consumer = pipeline.consume(metrics_port=str(self.ports["consume"]), range_window_ms="5")
        self.aggregator = pipeline.aggregate(metrics_port=str(self.ports["aggregate"]))

    def ready(self, stage: str) -> dict[str, str]:
        """What each check says; "ok" where nothing is wrong."""
        try:
            with urlopen(f"http://127.0.0.1:{self.ports[stage]}/ready", timeout=10.0) as answered:
                body = answered.read()
        except HTTPError as error:
            with error:
                body = error.read()
        checks: dict[str, str] = json.loads(body)["checks"]
        return checks

    def retries(self, stage: str, dependency: str) -> float:
        with urlopen(f"http://127.0.0.1:{self.ports[stage]}/metrics", timeout=10.0) as answered:
            for line in answered.read().decode().splitlines():
                if line.startswith("meterline_retries_total{") and f'dependency="{dependency}"' in line:
                    return float(line.rsplit(" ", 1)[1])
        return 0.0

    def refused_by(self, stage: str, dependency: str, words: str) -> bool:
        """Whether the stage has counted its tries, once it says so."""
        wait_until(f"{stage} names {dependency}", lambda: words in self.ready(stage)[dependency], 60.0)
        return self.retries(stage, dependency) > 0

    def goes_on(self) -> bool:
        """Whether both stages still run, once all is counted, exactly, and the consumer is ready."""
        self.pipeline.settle()
        self.pipeline.assert_exact()
        wait_until("ready again", lambda: set(self.ready("consume").values()) == {"ok"}, 30.0)
        return self.consumer.poll() is self.aggregator.poll() is None


@pytest.fixture(scope="module")
def running(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Pipeline(migrated, tmp_path_factory.mktemp("infrastructure")) as pipeline:
        found = Running(pipeline)
        publish(pipeline, 0, 50)
        pipeline.settle()
        yield found


REFUSALS = {
    "too many parts": ("parts_to_throw_insert = 1, parts_to_delay_insert = 0", "Too many parts"),
    "a full disk": ("min_free_disk_bytes_to_perform_insert = 1000000000000000", "free"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_clickhouse_that_refuses_inserts_is_tried_until_it_takes_them(running: Running, case: str) -> None:
    settings, words = REFUSALS[case]
    for table in TABLES:
        running.pipeline.clickhouse.command(f"ALTER TABLE {table} MODIFY SETTING {settings}")
    publish(running.pipeline, 1 + list(REFUSALS).index(case), 50)
    assert running.refused_by("consume", "clickhouse", words)
    names = ", ".join(one.split(" = ")[0] for one in settings.split(", "))
    for table in TABLES:
        running.pipeline.clickhouse.command(f"ALTER TABLE {table} RESET SETTING {names}")
    assert running.goes_on()


def test_a_postgres_that_only_reads_is_tried_until_it_writes(running: Running) -> None:
    """As a standby does, or a server that is not yet promoted."""
    url = running.pipeline.settings.postgres_url.get_secret_value()
    database = str(conninfo_to_dict(url)["dbname"])
    name = sql.Identifier(database)
    end_sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        connection.execute(end_sessions, (database,))
        publish(running.pipeline, 3, 50)
        assert running.refused_by("aggregate", "postgres", "read-only")
        connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))
        connection.execute(end_sessions, (database,))
    assert running.goes_on()


def test_a_delta_that_the_topic_does_not_take_is_cut_and_not_stuck(running: Running) -> None:
    pipeline = running.pipeline
    resource = ConfigResource(
        ResourceType.TOPIC,
        pipeline.settings.topic_deltas,
        incremental_configs=[ConfigEntry("max.message.bytes", "4096", incremental_operation=AlterConfigOpType.SET)],
    )
    admin = kafka.admin(pipeline.settings)
    (future,) = admin.incremental_alter_configs([resource], request_timeout=10.0).values()
    answer(future)
    # Halted, so that all of it is one range; each event of another tenant, so that each needs a line that packs badly.
    os.kill(running.consumer.pid, signal.SIGSTOP)
    for number in range(800):
        tenant = hashlib.sha512(str(number).encode()).hexdigest()
        pipeline.send_event(f"wide-{number}", event(f"wide-{number}", tenant=tenant))
    pipeline.flush()
    os.kill(running.consumer.pid, signal.SIGCONT)
    assert pipeline.wait_for_end(running.consumer) == Exit.TOPIC_SETTINGS
    running.consumer = pipeline.consume(metrics_port=str(running.ports["consume"]))
    assert running.goes_on()
