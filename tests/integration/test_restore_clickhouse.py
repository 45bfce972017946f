"""A drill: yesterday's ClickHouse is restored under today's log and today's counters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from meterline_schemas.delta import Figures
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.reconcile import reconcile
from store.rewinding import Checkpoint, Standing, rewind
from tests.fakes import drill
from tests.fakes.pipeline import Pipeline
from tests.integration.test_consume_crashes import publish

TABLES = ("usage_events", "usage_rejects")


@pytest.fixture
def pipeline(migrated: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(migrated, tmp_path) as running:
        yield running


def back_up(pipeline: Pipeline) -> None:
    """As it stands, while everything runs."""
    for table in TABLES:
        pipeline.clickhouse.command(f"CREATE TABLE {table}_yesterday AS {table}")
        pipeline.clickhouse.command(f"INSERT INTO {table}_yesterday SELECT * FROM {table}")


def restore(pipeline: Pipeline) -> None:
    for table in TABLES:
        pipeline.clickhouse.command(f"TRUNCATE TABLE {table}")
        pipeline.clickhouse.command(f"INSERT INTO {table} SELECT * FROM {table}_yesterday")
        pipeline.clickhouse.command(f"DROP TABLE {table}_yesterday")


def test_consumers_go_back_to_what_clickhouse_holds_and_no_number_changes(pipeline: Pipeline) -> None:
    small = {"range_events_max": "100", "range_window_ms": "5"}
    consumer, aggregator = pipeline.consume(**small), pipeline.aggregate()
    publish(pipeline, 0)
    pipeline.settle()
    back_up(pipeline)
    for round_number in (1, 2):
        publish(pipeline, round_number)
    pipeline.settle()
    fences = pipeline.fences()
    # While a consumer runs nothing is moved under it.
    shown = drill.run(pipeline.settings, "restore", "clickhouse", "--json")
    assert not any(one["rewinds"] for one in json.loads(shown.stdout)["partitions"])
    consumer.ask_to_stop()
    assert pipeline.wait_for_end(consumer) == 0

    restore(pipeline)
    consumer = pipeline.consume(retry_give_up_s="1")
    assert pipeline.wait_for_end(consumer) == Exit.INDEX_MISMATCH
    assert not reconcile(pipeline.settings, patience_s=0).ok
    said = drill.follow(pipeline.settings, "Yesterday's ClickHouse")
    assert f"{pipeline.partitions} partitions were set back" in said
    behind = json.loads(drill.run(pipeline.settings, "restore", "clickhouse", "--json").stdout)["partitions"]
    assert not any(one["rewinds"] for one in behind)
    assert {one["known_from"] for one in behind} == {"group"}
    assert all(one["held_below"] < one["fence"] for one in behind)
    (entry,) = pipeline.postgres("SELECT after FROM audit WHERE what = 'consumer_group.rewound'")
    assert len(entry[0]) == pipeline.partitions

    pipeline.consume(**small)
    publish(pipeline, 3)
    pipeline.settle()
    truth = pipeline.assert_exact()
    assert truth.total().admitted == 4 * 300
    assert aggregator.poll() is None
    # No fence moved back, and what had been counted was skipped: not one range was counted from ClickHouse instead.
    assert all(now.next_offset > before.next_offset for now, before in zip(pipeline.fences(), fences, strict=True))
    drill.follow(pipeline.settings, "")


def test_a_log_that_has_forgotten_the_position_moves_nothing(migrated: Settings) -> None:
    behind = Standing(1, "usage.events", 0, 90, 80, 50, Checkpoint(40, 1, Figures(admitted=40), "delta"))
    assert behind.lost == 10
    with pytest.raises(MeterlineExit, match="10 records would be missing for ever") as told:
        rewind(migrated, "tester", [behind])
    assert told.value.code == Exit.LOG_TRUNCATED
    assert replace(behind, held=replace(behind.held, offset=90)).rewinds is False
    assert replace(behind, committed=None, held=replace(behind.held, offset=80)).rewinds is False
