"""Deltas lost, repeated, spoilt and forged, and an aggregator killed round its commit: counters stay the sum of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # it re-exports it without saying so

from deploy.embedded.processes import Child, free_port
from meterline_schemas.delta import Delta, Figures, decode_delta, encode_delta
from meterline_schemas.types import Epoch, Offset, Partition
from runtime import kafka
from runtime.exits import Exit
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.test_consume_crashes import publish


@pytest.fixture(scope="module")
def pipeline(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with Pipeline(migrated, tmp_path_factory.mktemp("deltas")) as running:
        yield running


def deltas(pipeline: Pipeline) -> list[tuple[int, bytes]]:
    """(partition, value) of every record in the deltas topic."""
    topic = pipeline.settings.topic_deltas
    reader: Consumer = kafka.consumer(pipeline.settings, **{"group.id": "reader", "auto.offset.reset": "earliest"})
    reader.assign([TopicPartition(topic, partition, 0) for partition in range(pipeline.partitions)])
    found, ended = [], 0
    while ended < pipeline.partitions:
        message = reader.poll(10.0)
        assert message is not None
        error = message.error()
        if error is not None:  # any other than the end (a broker that is slow to answer) is the client's to get over
            ended += error.code() == KafkaError._PARTITION_EOF
            continue
        partition = message.partition()
        assert partition is not None
        found.append((partition, message.value() or b""))
    reader.close()
    return found


def write_deltas(pipeline: Pipeline, records: list[tuple[int, bytes | None]]) -> None:
    producer = kafka.producer(pipeline.settings)
    for partition, value in records:
        producer.produce(pipeline.settings.topic_deltas, value=value, partition=partition)
    assert producer.flush(30.0) == 0


def outcome(port: int, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("meterline_deltas_total{") and f'outcome="{name}"' in line:
                return float(line.rsplit(" ", 1)[1])
    return 0.0


def stopped(pipeline: Pipeline, child: Child) -> int:
    child.ask_to_stop()
    return pipeline.wait_for_end(child)


def test_killed_before_and_after_its_commit_the_aggregator_counts_each_range_once(pipeline: Pipeline) -> None:
    consumer = pipeline.consume(range_events_max="100")
    for number, point in enumerate(("before_commit", "after_commit", "before_commit")):
        publish(pipeline, number)
        aggregator = pipeline.aggregate(f"aggregator.{point}:{1 + number // 2}", aggregator_batch_max="2")
        assert pipeline.wait_for_end(aggregator) == -9, aggregator.tail()
    aggregator = pipeline.aggregate()
    pipeline.settle()
    pipeline.assert_exact()
    assert stopped(pipeline, aggregator) == 0
    assert stopped(pipeline, consumer) == 0


def test_ranges_whose_deltas_were_lost_are_counted_from_clickhouse_by_the_next_delta_or_without_one(pipeline: Pipeline) -> None:
    lost = pipeline.settings.topic_deltas + ".lost"
    admin = kafka.admin(pipeline.settings)
    admin.create_topics([NewTopic(lost, pipeline.partitions, 1)])[lost].result(30.0)
    consumer = pipeline.consume(topic_deltas=lost)
    publish(pipeline, 10, 100)
    wait_until("the ranges are committed", lambda: sum(pipeline.committed().values()) == sum(pipeline.ends()))
    assert stopped(pipeline, consumer) == 0
    before = len(pipeline.postgres("SELECT * FROM repairs"))
    # Without a delta: the reconciler.
    aggregator = pipeline.aggregate()
    pipeline.settle()
    pipeline.assert_exact()
    causes = [str(row[0]) for row in pipeline.postgres("SELECT cause FROM repairs ORDER BY id OFFSET %s", before)]
    assert len(causes) == pipeline.partitions
    assert all("stood still" in cause for cause in causes)
    # With one that comes after the gap.
    assert stopped(pipeline, aggregator) == 0
    consumer = pipeline.consume(topic_deltas=lost)
    publish(pipeline, 11, 100)
    wait_until("the ranges are committed", lambda: sum(pipeline.committed().values()) == sum(pipeline.ends()))
    assert stopped(pipeline, consumer) == 0
    consumer = pipeline.consume()
    publish(pipeline, 12, 100)
    wait_until("the ranges are committed", lambda: sum(pipeline.committed().values()) == sum(pipeline.ends()))
    aggregator = pipeline.aggregate()
    pipeline.settle()
    pipeline.assert_exact()
    later = [str(row[0]) for row in pipeline.postgres("SELECT cause FROM repairs ORDER BY id OFFSET %s", before + len(causes))]
    assert any("does not continue the fence" in cause for cause in later)
    assert [stopped(pipeline, aggregator), stopped(pipeline, consumer)] == [0, 0]


def test_repeated_and_unreadable_records_of_the_deltas_topic_change_nothing(pipeline: Pipeline) -> None:
    port = free_port()
    consumer, aggregator = pipeline.consume(), pipeline.aggregate(metrics_port=str(port))
    publish(pipeline, 20, 100)
    pipeline.settle()
    again = deltas(pipeline)
    assert len(again) > 10
    skipped, unreadable = outcome(port, "skipped"), outcome(port, "unreadable")
    write_deltas(pipeline, [(partition, value) for partition, value in again])
    write_deltas(pipeline, [(1, b"{"), (1, None), (1, b""), (2, b"\xff"), (2, again[0][1].replace(b'"epoch":1', b'"epoch":"1"'))])
    wait_until("all are read", lambda: outcome(port, "skipped") >= skipped + len(again))
    wait_until("all are read", lambda: outcome(port, "unreadable") >= unreadable + 5)
    of_no_epoch = Delta(Epoch(7), Partition(3), Offset(0), Offset(1), 1, (), Figures(invalid=1))
    write_deltas(pipeline, [(3, encode_delta(of_no_epoch))])
    wait_until("it is read", lambda: outcome(port, "foreign") >= 1)
    pipeline.assert_exact()
    publish(pipeline, 21, 100)
    pipeline.settle()
    pipeline.assert_exact()
    assert aggregator.poll() is None
    assert [stopped(pipeline, aggregator), stopped(pipeline, consumer)] == [0, 0]


def test_a_delta_that_clickhouse_does_not_explain_is_waited_for_and_then_ends_the_process_uncounted(pipeline: Pipeline) -> None:
    fence = pipeline.fences()[0]
    real = decode_delta(next(value for partition, value in deltas(pipeline) if partition == 0 and value.startswith(b"{")))
    figures = fence.figures.plus(Figures(admitted=sum(line.events for line in real.lines), hash_sum=1))
    events = figures.admitted - fence.figures.admitted
    # It continues neither the fence nor the log: a gap, and rows that nobody stored.
    at = fence.next_offset + 1
    forged = Delta(Epoch(1), Partition(0), Offset(at), Offset(at + events), 1, real.lines, figures)
    before = pipeline.postgres("SELECT * FROM usage_counters ORDER BY 1, 2, 3")
    write_deltas(pipeline, [(0, encode_delta(forged))])
    aggregator = pipeline.aggregate(retry_give_up_s="0.5")
    assert pipeline.wait_for_end(aggregator) == Exit.FENCE_MISMATCH, aggregator.tail()
    assert "A fence that does not fit" in aggregator.logged()
    assert pipeline.postgres("SELECT * FROM usage_counters ORDER BY 1, 2, 3") == before
    assert pipeline.fences()[0] == fence
