"""The producer against a real broker: positions, partitions, and a broker or a producer that is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.embedded.kafka import Kafka
from deploy.embedded.stack import StackAddresses
from meterline import EventDraft, Producer, Receipt
from meterline.spool import Spool, SpooledRecord
from meterline_schemas.draft import encode_event
from meterline_schemas.event import Event, decode
from meterline_schemas.key import partition_of
from meterline_schemas.rules import RULES

PARTITIONS = 7
# Makes the drainer of another process slow enough to be caught in the middle: it sends a chunk, and waits for it.
MANY = 60_000


def _draft(number: int, **over: Any) -> EventDraft:
    return EventDraft("tnt_123", "analysis-worker", f"job-{number}", "PHOTO_ANALYSIS_DEEP", 1, **over)


def _topic(address: str, partitions: int) -> str:
    name = f"usage.events.{uuid.uuid4().hex[:8]}"
    new = NewTopic(name, partitions, 1, config={"message.timestamp.type": "LogAppendTime"})
    admin = AdminClient({"bootstrap.servers": address})  # a name keeps it alive until the answer
    admin.create_topics([new])[name].result(timeout=20)
    return name


def _ends(address: str, topic: str, partitions: int) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "ends"})
    try:
        return {p: int(consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=15)[1]) for p in range(partitions)}
    finally:
        consumer.close()


def _records(address: str, topic: str, partitions: int) -> list[Any]:
    """All that the topic holds, each partition in order."""
    ends = _ends(address, topic, partitions)
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    found: list[Any] = []
    deadline = time.monotonic() + 30
    try:
        while len(found) < sum(ends.values()):
            assert time.monotonic() < deadline, f"{len(found)} of {ends} read"
            found += [message for message in consumer.consume(10_000, 0.2) if message.error() is None]
    finally:
        consumer.close()
    return found


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of this file's own, because it is killed."""
    kafka = Kafka(tmp_path_factory.mktemp("kafka") / "kafka", log=print)
    kafka.start()
    yield kafka
    kafka.stop()


def test_the_broker_has_each_acked_event_at_its_position_time_and_partition(stack: StackAddresses) -> None:
    topic = _topic(stack.kafka, PARTITIONS)
    drafts = [_draft(number, metadata={"text": "\u00e9" * (number % 9)}) for number in range(2_000)]
    with Producer(stack.kafka, topic) as producer:
        answers = producer.emit_many(drafts, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    records = {(record.partition(), record.offset()): record for record in _records(stack.kafka, topic, PARTITIONS)}
    assert len(records) == len(drafts)
    for draft, answer in zip(drafts, answers, strict=True):
        assert isinstance(answer, Receipt)
        assert answer.state == "acked"
        assert answer.position is not None
        record = records.pop((answer.position.partition, answer.position.offset))
        assert record.key() == answer.key
        # The broker stamps, the receipt tells it, and the Java client's rule says where the key belongs.
        assert record.timestamp() == (TIMESTAMP_LOG_APPEND_TIME, answer.position.timestamp_ms)
        assert answer.position.partition == partition_of(answer.key, PARTITIONS)
        event = decode(record.value(), record.headers(), answer.position.timestamp_ms, RULES[1])
        assert isinstance(event, Event)
        assert (event.source_entity_id, event.key) == (draft.source_entity_id, answer.key)


def test_a_broker_killed_in_the_middle_loses_nothing_that_was_answered(own_broker: Kafka, tmp_path: Path) -> None:
    """Several threads emit while the broker dies and comes back; whatever was answered, acked or spooled, is in the log."""
    topic = _topic(own_broker.address, 3)
    stop = threading.Event()
    answered: list[list[tuple[int, str]]] = [[] for _ in range(3)]
    with Producer(own_broker.address, topic, spool_dir=tmp_path, delivery_timeout_s=2) as producer:

        def emit(thread: int) -> None:
            number = 0
            while not stop.is_set() and number < 100_000:
                future = producer.emit(_draft(thread, metadata={"n": number}))
                answered[thread].append((number, future.result(timeout=20).state))
                number += 1

        threads = [threading.Thread(target=emit, args=(thread,)) for thread in range(3)]
        for thread in threads:
            thread.start()

        def wait_until(state: str, more: int) -> None:
            deadline = time.monotonic() + 30
            before = Counter(s for log in answered for _, s in log)[state]
            while Counter(s for log in answered for _, s in log)[state] < before + more:
                assert time.monotonic() < deadline, f"no {state} events"
                time.sleep(0.01)

        try:
            wait_until("acked", 30)
            own_broker.kill()
            wait_until("spooled", 30)
            own_broker.start()
            wait_until("acked", 30)
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=30)
        assert producer.flush(10) == 0
        assert producer.wait_drained(20)
        assert producer.spooled_bytes == 0
    for job, log in enumerate(answered):
        key = _record(job).key
        numbers = [
            msgspec.json.decode(record.value())["metadata"]["n"]
            for record in _records(own_broker.address, topic, 3)
            if record.key() == key
        ]
        assert set(numbers) == {number for number, _ in log}
        # One after the other was answered, so first appearances are in order: a record sent again comes later.
        assert list(dict.fromkeys(numbers)) == sorted(set(numbers))


def test_a_burst_that_a_dying_broker_interrupts_reaches_the_log_in_order(own_broker: Kafka, tmp_path: Path) -> None:
    """Nobody waits for answers here: many events of one key are queued and in flight when the broker stops answering."""
    topic = _topic(own_broker.address, 1)
    with Producer(own_broker.address, topic, spool_dir=tmp_path, delivery_timeout_s=2) as producer:
        producer.emit(_draft(0, metadata={"n": 0})).result(timeout=20)
        futures = []
        for number in range(1, 5_000):
            if number == 2_500:
                own_broker.kill()
            futures.append(producer.emit(_draft(0, metadata={"n": number})))
        states = [future.result(timeout=20).state for future in futures]
        assert "spooled" in states
        # Acknowledged are the first, spooled the rest: nothing older waits on disk behind something newer in the log.
        assert states == sorted(states)
        own_broker.start()
        assert producer.wait_drained(20)
    numbers = [msgspec.json.decode(record.value())["metadata"]["n"] for record in _records(own_broker.address, topic, 1)]
    assert list(dict.fromkeys(numbers)) == list(range(5_000))


def test_a_broker_killed_while_the_spool_is_drained_loses_nothing(own_broker: Kafka, tmp_path: Path) -> None:
    topic = _topic(own_broker.address, 2)
    spool = Spool(tmp_path / topic, 64 << 20)
    for start in range(0, MANY, 10_000):
        spool.append([_record(number) for number in range(start, start + 10_000)])
    spool.rotate()
    with Producer(own_broker.address, topic, spool_dir=tmp_path, delivery_timeout_s=1) as producer:
        deadline = time.monotonic() + 20
        while not sum(_ends(own_broker.address, topic, 2).values()):
            assert time.monotonic() < deadline
        own_broker.kill()
        assert not producer.wait_drained(1.5), "it was killed too late to prove anything"
        own_broker.start()
        assert producer.wait_drained(60)
    found = {record.key() for record in _records(own_broker.address, topic, 2)}
    assert found == {_record(number).key for number in range(MANY)}


def test_a_producer_killed_while_draining_may_send_again_and_loses_nothing(stack: StackAddresses, tmp_path: Path) -> None:
    topic = _topic(stack.kafka, 2)
    spool = Spool(tmp_path / topic, 64 << 20)
    for start in range(0, MANY, 10_000):
        spool.append([_record(number) for number in range(start, start + 10_000)])
    spool.rotate()
    program = """
import sys
from meterline import Producer
producer = Producer(sys.argv[1], sys.argv[2], spool_dir=sys.argv[3])
producer.wait_drained(60)
"""
    with subprocess.Popen([sys.executable, "-c", program, stack.kafka, topic, str(tmp_path)]) as child:
        deadline = time.monotonic() + 20
        while not sum(_ends(stack.kafka, topic, 2).values()):
            assert time.monotonic() < deadline
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(timeout=10) == -signal.SIGKILL
    assert spool.pending(), "it was killed too late to prove anything"
    with Producer(stack.kafka, topic, spool_dir=tmp_path) as producer:
        assert producer.wait_drained(60)
    found = Counter(record.key() for record in _records(stack.kafka, topic, 2))
    assert set(found) == {_record(number).key for number in range(MANY)}
    assert found.total() > MANY, "the part that was sent before the kill is sent again"


def _record(number: int) -> SpooledRecord:
    encoded = encode_event(_draft(number), time.time_ns() // 1_000_000)
    return SpooledRecord(encoded.event.key, encoded.value, [("schema-version", b"1")])
