"""What the consumer makes of everything that a log may hold, and of stores that go away under it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from deploy.embedded.processes import Child, free_port
from meterline_schemas.key import dedup_key
from runtime.settings import Settings
from tests.contract import golden
from tests.fakes.foreign_producer import send_with_header_name
from tests.fakes.pipeline import Pipeline, wait_until
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.test_consume_crashes import event

CLICKHOUSE_TIMEOUT_S = 3
STOP_WITHIN_S = 8


@dataclass
class Running:
    """A consumer and an aggregator whose stores a test can take away."""

    pipeline: Pipeline
    clickhouse: TcpProxy
    postgres: TcpProxy
    over: dict[str, str]
    metrics_port: int
    consumer: Child

    def start_consumer(self) -> None:
        self.consumer = self.pipeline.consume(**self.over)

    def retries(self, dependency: str) -> float:
        """How often the consumer has had to try again."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10.0) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("meterline_retries_total{") and f'dependency="{dependency}"' in line:
                    return float(line.rsplit(" ", 1)[1])
        return 0.0


@pytest.fixture(scope="module")
def running(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    clickhouse, postgres = urlsplit(migrated.clickhouse_url), urlsplit(migrated.postgres_url.get_secret_value())
    assert clickhouse.hostname
    assert clickhouse.port
    assert postgres.hostname
    assert postgres.port
    with (
        TcpProxy(clickhouse.hostname, clickhouse.port) as to_clickhouse,
        TcpProxy(postgres.hostname, postgres.port) as to_postgres,
        Pipeline(migrated, tmp_path_factory.mktemp("verdicts")) as pipeline,
    ):
        login = f"{postgres.username}:{postgres.password}@" if postgres.password else f"{postgres.username}@"
        metrics_port = free_port()
        over = {
            "clickhouse_url": clickhouse._replace(netloc=f"127.0.0.1:{to_clickhouse.port}").geturl(),
            "postgres_url": postgres._replace(netloc=f"{login}127.0.0.1:{to_postgres.port}").geturl(),
            "clickhouse_timeout_s": str(CLICKHOUSE_TIMEOUT_S),
            "stop_within_s": str(STOP_WITHIN_S),
            "metrics_port": str(metrics_port),
            "range_events_max": "500",
        }
        consumer = pipeline.consume(**over)
        pipeline.aggregate(postgres_url=over["postgres_url"])
        yield Running(pipeline, to_clickhouse, to_postgres, over, metrics_port, consumer)


def reasons(pipeline: Pipeline) -> dict[str, int]:
    return dict(pipeline.query("SELECT reason, count() FROM usage_rejects FINAL GROUP BY reason"))


BAD_BYTES: dict[str, tuple[bytes | None, str]] = {
    "malformed": (b'{"tenantId": "t"', "malformed_json"),
    "null": (None, "empty"),
    "no bytes": (b"", "empty"),
    "not UTF-8": (b'{"tenantId": "\xff"}', "not_utf8"),
    "NaN": (event("x").replace(b'"1.25"', b"NaN"), "malformed_json"),
    "1e400": (event("x").replace(b'"1.25"', b"1e400"), "bad_quantity"),
    "a null byte": (b"\x00", "malformed_json"),
    "deep": (b"[" * 60_000, "too_deep"),
    "a lone surrogate": (b'{"tenantId": "\\ud800"}', "malformed_json"),
    "large": (event("x", metadata={"x": "y" * 70_000}), "too_large"),
    "an array": (b"[]", "not_an_object"),
    "ancient": (event("x", occurredAt="1970-01-01T00:00:00Z"), "too_old"),
    "far ahead": (event("x", occurredAt="9999-12-31T23:59:59Z"), "too_far_ahead"),
    "negative": (event("x", "-1"), "negative_usage"),
}


def test_every_kind_of_bad_bytes_gets_its_verdict_once_and_is_kept_raw(running: Running) -> None:
    pipeline = running.pipeline
    for number, (value, _) in enumerate(BAD_BYTES.values()):
        pipeline.send(value, partition=number % pipeline.partitions)
    pipeline.send_event("fine", event("fine"))
    # A foreign producer without a key, and one with another partitioner.
    home = pipeline.partition("stray")
    pipeline.send(event("stray"), partition=(home + 1) % pipeline.partitions)
    pipeline.send(event("stray", "2"), dedup_key("worker", "stray", "PHOTO"), partition=(home + 2) % pipeline.partitions)
    pipeline.send_event("future", event("future"), headers=[("schema-version", b"2")])
    pipeline.send_event("present", event("present"), headers=[("schema-version", b"1"), ("other", None)])
    pipeline.flush()
    pipeline.settle()
    truth = pipeline.assert_exact()
    expected: dict[str, int] = {"misrouted": 2, "unsupported_schema_version": 1}
    for _, reason in BAD_BYTES.values():
        expected[reason] = expected.get(reason, 0) + 1
    assert reasons(pipeline) == expected
    assert {row.entity for row in truth.rows.values()} == {"fine", "present"}


def test_a_header_name_that_is_not_utf8_does_not_stop_the_log(running: Running) -> None:
    pipeline = running.pipeline
    before = reasons(pipeline)["unsupported_schema_version"]
    send_with_header_name(pipeline.settings, pipeline.topic, pipeline.partition("odd"), event("odd"), b"\xff\xfe")
    pipeline.send_event("after-odd", event("after-odd"))
    pipeline.flush()
    pipeline.settle()
    pipeline.assert_exact()
    assert reasons(pipeline)["unsupported_schema_version"] == before + 1, list(
        pipeline.query("SELECT * FROM usage_rejects FINAL WHERE source_entity_id IN ('odd', 'future')")
    )
    assert running.consumer.poll() is None


def test_every_golden_event_that_a_record_can_hold_is_decided_as_the_naive_reading_has_it(running: Running) -> None:
    pipeline = running.pipeline
    for folder in ("usage.events/valid", "usage.events/invalid"):
        for document in golden.documents(folder).values():
            record = golden.record_of(document)
            for partition in range(pipeline.partitions):  # one of them is where its key leads to
                pipeline.send(record.value, partition=partition, headers=list(record.headers))
    pipeline.flush()
    pipeline.settle()
    pipeline.assert_exact()


def test_offsets_of_aborted_and_control_records_are_void_at_the_end_of_the_log_too(running: Running) -> None:
    pipeline = running.pipeline
    before = pipeline.read_log().total()
    producer = pipeline.transactional("foreign")
    for round_number, finish in enumerate((producer.abort_transaction, producer.commit_transaction, producer.abort_transaction)):
        producer.begin_transaction()
        for number in range(5):
            entity = f"tx{round_number}-{number}"
            producer.produce(pipeline.topic, event(entity), dedup_key("worker", entity, "PHOTO"))
        producer.flush(30.0)
        finish(30.0)
    pipeline.settle()
    truth = pipeline.assert_exact()
    assert truth.total().admitted == before.admitted + 5
    assert truth.total().void >= before.void + 10 + 3
    assert not any(row.entity.startswith(("tx0", "tx2")) for row in truth.rows.values())


def test_an_insert_that_is_cut_in_the_middle_is_repeated_and_counts_once(running: Running) -> None:
    pipeline = running.pipeline
    running.clickhouse.cut_after(20_000)
    for number in range(2_000):
        pipeline.send_event(f"cut-{number}", event(f"cut-{number}", occurredAt=_day(number % 120)))
    pipeline.flush()
    wait_until("the connection is cut within an insert", lambda: running.clickhouse.refusing)
    before = running.retries("clickhouse")
    wait_until("the consumer tries again", lambda: running.retries("clickhouse") > before)
    committed = sum(pipeline.committed().values())
    assert committed < sum(pipeline.ends())
    running.clickhouse.restore()
    pipeline.settle()
    pipeline.assert_exact()
    assert running.consumer.poll() is None


def test_while_postgres_is_away_nothing_is_decided_and_afterwards_all_of_it_is(running: Running) -> None:
    pipeline = running.pipeline
    running.postgres.cut()
    for number in range(200):
        pipeline.send_event(f"pg-{number}", event(f"pg-{number}"))
    pipeline.flush()
    wait_until("the consumer tries again", lambda: running.retries("postgres") >= 2)
    assert sum(pipeline.committed().values()) < sum(pipeline.ends())
    running.postgres.restore()
    pipeline.settle()
    pipeline.assert_exact()
    assert running.consumer.poll() is None


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_told_to_stop_while_clickhouse_is_away_it_ends_within_its_bound_and_the_next_one_goes_on(
    running: Running, how: str
) -> None:
    pipeline = running.pipeline
    before = running.retries("clickhouse")
    getattr(running.clickhouse, how)()
    for number in range(2_000):
        pipeline.send_event(f"stop-{how}-{number}", event(f"stop-{how}-{number}"))
        if number % 200 == 0:  # several cycles: one with the storing thread, two that wait, one that finds no room
            pipeline.flush()
    pipeline.flush()
    wait_until("the consumer tries again", lambda: running.retries("clickhouse") > before)
    began = time.monotonic()
    running.consumer.ask_to_stop()
    assert pipeline.wait_for_end(running.consumer) == 0, running.consumer.tail()
    assert time.monotonic() - began < STOP_WITHIN_S + 2
    running.clickhouse.restore()
    running.start_consumer()
    pipeline.settle()
    pipeline.assert_exact()


def test_a_consumer_without_work_ends_at_once_and_with_success_when_told_to(running: Running) -> None:
    began = time.monotonic()
    running.consumer.ask_to_stop()
    assert running.pipeline.wait_for_end(running.consumer) == 0
    assert time.monotonic() - began < 4.0
    last: dict[str, Any] = json.loads(running.consumer.logged().splitlines()[-1])
    assert last["message"] == "stopped"


def _day(days_ago: int) -> str:
    return time.strftime("%Y-%m-%dT01:02:03Z", time.gmtime(time.time() - days_ago * 86_400))
