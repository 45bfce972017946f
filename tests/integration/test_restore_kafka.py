"""A drill: the Kafka cluster is lost; the next epoch begins in another, and knows what was sent before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded.stack import EmbeddedStack
from runtime.settings import Settings
from store.reconcile import reconcile
from tests.fakes import drill
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.test_consume_crashes import event, publish


@pytest.fixture
def other_kafka(tmp_path: Path) -> Iterator[str]:
    """A cluster of its own, empty."""
    stack = EmbeddedStack(tmp_path / "other", log=lambda _: None, servers=("kafka",))
    address = stack.start().kafka
    yield address
    stack.forget()


def test_a_new_epoch_in_another_cluster_recognises_what_is_sent_again(
    migrated: Settings, other_kafka: str, tmp_path: Path
) -> None:
    small = {"range_events_max": "100", "range_window_ms": "5"}
    with Pipeline(migrated, tmp_path) as pipeline:
        consumer, aggregator = pipeline.consume(**small), pipeline.aggregate()
        publish(pipeline, 0)
        pipeline.settle()
        aggregator.kill()
        # Stored and not counted, and then everything is gone.
        publish(pipeline, 1)
        wait_until("all is committed", lambda: pipeline.committed() == dict(enumerate(pipeline.ends())), 60.0)
        consumer.kill()
        admitted = pipeline.read_log().total().admitted
        still_there = drill.run(migrated, "restore", "kafka", "--yes")
        assert still_there.returncode == 1
        assert "nothing is lost" in still_there.stderr

    settings = migrated.model_copy(update={"kafka_url": other_kafka})
    said = drill.follow(settings, "Kafka lost")
    assert "epoch 2 has begun" in said
    with Pipeline(settings, tmp_path) as pipeline:
        assert pipeline.topic == f"{settings.topic_events}.2"
        old = pipeline.postgres("SELECT sum(admitted), sum(void) FROM delta_fences WHERE epoch = 1")
        assert old[0][0] == admitted
        ((rows,),) = pipeline.query("SELECT count() FROM usage_events FINAL")
        assert rows == admitted
        counted = pipeline.postgres("SELECT sum(events) FROM usage_counters")
        assert counted == [(admitted,)]
        pipeline.consume(**small)
        pipeline.aggregate()
        # The senders repeat all that they are unsure of, and one event is new.
        publish(pipeline, 0)
        publish(pipeline, 1)
        pipeline.send_event("new", event("new"))
        pipeline.flush()
        ends = pipeline.ends()
        wait_until(
            "the new epoch is counted",
            lambda: (
                pipeline.postgres("SELECT next_offset FROM delta_fences WHERE epoch = 2 ORDER BY partition")
                == [(end,) for end in ends]
            ),
            90.0,
        )
        (figures,) = pipeline.postgres("SELECT sum(admitted), sum(duplicate), sum(void) FROM delta_fences WHERE epoch = 2")
        assert figures[0] == 1
        assert figures[1] >= admitted
        assert pipeline.postgres("SELECT sum(events) FROM usage_counters") == [(admitted + 1,)]
        report = reconcile(settings)
        assert report.ok, report.as_json()
        doctor = json.loads(drill.run(settings, "restore", "clickhouse", "--json").stdout)
        assert not any(one["rewinds"] for one in doctor["partitions"])
