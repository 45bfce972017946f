"""A drill: yesterday's Postgres is restored under today's log and today's rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runtime.settings import Settings
from store.reconcile import reconcile
from tests.fakes import drill
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.test_consume_crashes import publish


@pytest.fixture
def pipeline(migrated: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(migrated, tmp_path) as running:
        yield running


class Copies:
    """Databases copied on the server itself, as a backup of one moment."""

    def __init__(self, settings: Settings) -> None:
        url = settings.postgres_url.get_secret_value()
        self.name = str(conninfo_to_dict(url)["dbname"])
        self._server = make_conninfo(url, dbname="postgres")

    def replace(self, target: str, source: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(target)))
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                    sql.Identifier(target), sql.Identifier(source)
                )
            )

    def drop(self, name: str) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def test_what_was_counted_since_the_backup_is_counted_again_from_the_rows(pipeline: Pipeline) -> None:
    copies = Copies(pipeline.settings)
    backup = f"{copies.name}_y"
    small = {"range_events_max": "100", "range_window_ms": "5"}
    consumer, aggregator = pipeline.consume(**small), pipeline.aggregate()
    publish(pipeline, 0)
    pipeline.settle()
    aggregator.kill()
    consumer.kill()
    copies.replace(backup, copies.name)
    try:
        consumer, aggregator = pipeline.consume(**small), pipeline.aggregate()
        for round_number in (1, 2):
            publish(pipeline, round_number)
        pipeline.settle()
        counted = pipeline.postgres("SELECT * FROM usage_counters ORDER BY 1, 2, 3")
        for child in (consumer, aggregator):
            child.ask_to_stop()
            assert pipeline.wait_for_end(child) == 0
        copies.replace(copies.name, backup)
    finally:
        copies.drop(backup)
    assert pipeline.postgres("SELECT * FROM usage_counters ORDER BY 1, 2, 3") != counted
    drill.follow(pipeline.settings, "Yesterday's Postgres")
    seen = json.loads(drill.run(pipeline.settings, "restore", "postgres", "--json").stdout)
    assert len(seen["behind"]) == pipeline.partitions
    assert all(one["fence"] < one["committed"] for one in seen["behind"])

    pipeline.aggregate()
    wait_until(
        "the fences are where the group is",
        lambda: pipeline.postgres("SELECT * FROM usage_counters ORDER BY 1, 2, 3") == counted,
        60.0,
    )
    pipeline.consume(**small)
    publish(pipeline, 3)
    pipeline.settle()
    truth = pipeline.assert_exact()
    assert truth.total().admitted == 4 * 300
    assert {cause for (cause,) in pipeline.postgres("SELECT split_part(cause, ' ', 2) FROM repairs")} == {"fence"}
    assert reconcile(pipeline.settings, patience_s=0).ok
    assert drill.run(pipeline.settings, "restore", "postgres").returncode == 0


def test_what_only_postgres_could_know_stops_the_operator(pipeline: Pipeline) -> None:
    """Rules that were activated, and rows of an epoch that was begun, after the backup."""
    pipeline.clickhouse.command(
        "INSERT INTO usage_events (tenant_id, usage_type, source_service, source_entity_id, quantity, kind, occurred_at,"
        " ingested_at, log_epoch, kafka_partition, kafka_offset, row_version)"
        " VALUES ('t', 'T', 's', 'e', 1, 'usage', now64(3), now64(3),"
        " 2, 0, 0, bitNot(bitShiftLeft(toUInt64(2), 48)))"
    )
    ended = drill.run(pipeline.settings, "restore", "postgres", "--json")
    assert ended.returncode == 1
    (unknown,) = json.loads(ended.stdout)["unknown"]
    assert unknown["what"] == "an epoch that Postgres does not know"
