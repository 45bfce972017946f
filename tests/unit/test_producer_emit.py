"""The producer over TCP against librdkafka's own stand-in for a broker, and with no broker at all."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import confluent_kafka
import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from meterline import Closed, DeliveryFailed, EventDraft, InvalidEvent, Producer, QueueFull, Receipt, SpoolFull
from meterline.spool import Spool
from meterline_schemas.draft import EncodedEvent
from meterline_schemas.event import Event, decode
from meterline_schemas.key import dedup_key, partition_of
from meterline_schemas.rules import RULES

NOW = datetime(2026, 11, 21, 10, 0, 0, 123_000, tzinfo=UTC)
NOW_MS = 1_795_255_200_123
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PARTITIONS = 4


def _draft(number: int, **over: Any) -> EventDraft:
    fields: dict[str, Any] = {
        "tenant_id": "tnt_123",
        "source_service": "analysis-worker",
        "source_entity_id": f"job-{number}",
        "usage_type": "PHOTO_ANALYSIS_DEEP",
        "quantity": 1,
    }
    return EventDraft(**(fields | over))


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """host:port of a broker stand-in that makes a topic of four partitions when it is asked for one."""
    holder = confluent_kafka.Producer({"test.mock.num.brokers": 1, "test.mock.broker.rtt": 0, "log_level": 2})
    (node,) = holder.list_topics(timeout=10).brokers.values()
    yield f"{node.host}:{node.port}"
    holder.flush(1)


@pytest.fixture
def topic() -> str:
    return f"usage.events.{uuid.uuid4().hex[:8]}"


@pytest.fixture
def nowhere() -> Iterator[str]:
    """host:port that refuses connections, and is kept so."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@contextlib.contextmanager
def _gate(address: str, port: int) -> Iterator[None]:
    """Opens `port` as a way to the broker: a bootstrap server that comes back."""
    host, _, real_port = address.partition(":")
    server = socket.create_server(("127.0.0.1", port))
    ends: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = server.accept()
                outer = socket.create_connection((host, int(real_port)), timeout=5)
                ends.extend((inner, outer))
                for pair in ((inner, outer), (outer, inner)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(timeout=5)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _records(broker: str, topic: str, count: int) -> list[Any]:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": uuid.uuid4().hex, "log_level": 2})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    found: list[Any] = []
    deadline = time.monotonic() + 15
    try:
        while len(found) < count and time.monotonic() < deadline:
            found += [message for message in consumer.consume(count, 0.2) if message.error() is None]
    finally:
        consumer.close()
    return found


def test_an_acked_event_stands_at_its_position_with_key_header_and_time(broker: str, topic: str) -> None:
    with Producer(broker, topic, clock=lambda: NOW) as producer:
        receipt = producer.emit(_draft(1), traceparent=TRACE).result(timeout=10)
    assert receipt.state == "acked"
    assert receipt.position is not None
    (record,) = _records(broker, topic, 1)
    assert (record.partition(), record.offset(), record.key()) == (
        receipt.position.partition,
        receipt.position.offset,
        receipt.key,
    )
    assert record.headers() == [("schema-version", b"1"), ("traceparent", TRACE.encode())]
    event = decode(record.value(), record.headers(), NOW_MS + 60_000, RULES[1])
    assert isinstance(event, Event)
    assert (event.key, event.quantity, event.occurred_at_ms) == (receipt.key, 1_000_000, NOW_MS)


def test_every_event_goes_to_the_partition_that_its_key_leads_to(broker: str, topic: str) -> None:
    with Producer(broker, topic) as producer:
        answers = producer.emit_many(_draft(number) for number in range(500))
    for answer in answers:
        assert isinstance(answer, Receipt)
        assert answer.position is not None
        assert answer.position.partition == partition_of(answer.key, PARTITIONS)


def test_a_batch_answers_each_event_in_its_place(broker: str, topic: str) -> None:
    with Producer(broker, topic) as producer:
        good, bad, other = producer.emit_many([_draft(1), _draft(2, quantity="-1"), _draft(3)])
    assert isinstance(good, Receipt)
    assert isinstance(bad, InvalidEvent)
    assert bad.reason == "negative_usage"
    assert isinstance(other, Receipt)
    assert other.state == "acked"


def _encoded(number: int, text: str = "") -> EncodedEvent:
    """An event as an edge hands it on: the sender's own bytes, without a time."""
    value = (
        text.encode() or b'{ "sourceEntityId":"job-%d","tenantId":"t","sourceService":"s","usageType":"u","quantity":1}' % number
    )
    event = decode(value, None, NOW_MS, RULES[max(RULES)])
    assert isinstance(event, Event)
    return EncodedEvent(value, event)


def _sent(producer: Producer, events: list[EncodedEvent], *, patiently: bool = False) -> list[Any]:
    """The answers to a flight, by an owner that polls where the producer does not poll itself."""
    done: Future[list[Any]] = Future()
    if patiently:
        producer.send_patiently(events, done.set_result, traceparent=TRACE)
    else:
        assert producer.send(events, done.set_result, traceparent=TRACE)
    deadline = time.monotonic() + 15
    while not done.done() and time.monotonic() < deadline:
        if producer.poll():
            producer.settle()
        time.sleep(0.001)
    return done.result(timeout=0)


def test_a_flight_is_answered_in_its_order_and_its_bytes_stay_as_they_are(broker: str, topic: str) -> None:
    events = [_encoded(number) for number in range(200)]
    with Producer(broker, topic, polls_itself=False) as producer:
        answers = _sent(producer, events)
        assert producer.idle
    by_position = {(record.partition(), record.offset()): record for record in _records(broker, topic, len(events))}
    assert len(by_position) == len(events)
    for (value, event), position in zip(events, answers, strict=True):
        record = by_position[position.partition, position.offset]
        assert (record.value(), record.key()) == (value, event.key)
        assert dict(record.headers()) == {"schema-version": b"1", "traceparent": TRACE.encode()}


def test_a_flight_that_the_broker_does_not_take_is_spooled_whole_and_the_next_one_waits_for_the_disk(
    nowhere: str, topic: str, tmp_path: Path
) -> None:
    metadata = (
        '{"sourceEntityId":"m","tenantId":"t","sourceService":"s","usageType":"u","quantity":1,"metadata":{"occurredAt":1}}'
    )
    own = '{"occurredAt":"2026-11-21T09:00:00Z","sourceEntityId":"o",'
    own += '"tenantId":"t","sourceService":"s","usageType":"u","quantity":1}'
    events = [_encoded(1), _encoded(2, metadata), _encoded(3, own)]
    with Producer(nowhere, topic, spool_dir=tmp_path, delivery_timeout_s=0.3, polls_itself=False, clock=lambda: NOW) as producer:
        answers = _sent(producer, events)
        assert [answer.state for answer in answers] == ["spooled"] * 3
        assert not producer.send([_encoded(4)], lambda _: None, traceparent=TRACE), "it would have to wait for the disk"
        assert [answer.state for answer in _sent(producer, [_encoded(4)], patiently=True)] == ["spooled"]
    with contextlib.closing(Spool(tmp_path / topic, 1 << 20)) as spool:
        segment = spool.oldest()
        assert segment is not None
        values = [record.value for record in spool.read(segment).records]
    now = b'"occurredAt":"2026-11-21T10:00:00.123Z",'
    assert values[0] == b"{" + now + events[0].value[1:]
    assert values[1] == b"{" + now + events[1].value[1:]
    assert values[2] == events[2].value


def test_a_flight_larger_than_the_room_in_the_queue_is_not_begun(nowhere: str, topic: str) -> None:
    with Producer(nowhere, topic, delivery_timeout_s=0.3, queue_events_max=20, polls_itself=False) as producer:
        assert not producer.send([_encoded(number) for number in range(21)], lambda _: None, traceparent=TRACE)
        answers = _sent(producer, [_encoded(number) for number in range(5)])
    assert {type(answer) for answer in answers} == {DeliveryFailed}


def test_without_a_spool_an_absent_broker_is_an_error_within_the_timeout(nowhere: str, topic: str) -> None:
    began = time.monotonic()
    with Producer(nowhere, topic, delivery_timeout_s=0.3) as producer:
        assert producer.problem(0.2) is not None
        with pytest.raises(DeliveryFailed):
            producer.emit(_draft(1)).result(timeout=10)
        answers = producer.emit_many([_draft(2), _draft(3)])
    assert [type(answer) for answer in answers] == [DeliveryFailed, DeliveryFailed]
    assert time.monotonic() - began < 10


def test_a_queue_that_stays_full_is_said_so(nowhere: str, topic: str) -> None:
    with Producer(nowhere, topic, delivery_timeout_s=5, queue_events_max=5) as producer:
        producer.delivery_timeout_s = 0.2  # how long emit waits for room; the client keeps its own five seconds
        for number in range(5):
            producer.emit(_draft(number))
        with pytest.raises(QueueFull, match="queue_events_max"):
            producer.emit(_draft(6))
        assert producer.flush(0.05) == 5


def test_events_are_spooled_while_the_broker_is_away_and_drained_in_order_when_it_is_back(
    broker: str, topic: str, tmp_path: Path
) -> None:
    same_key_order = [_draft(7, metadata={"n": number}) for number in range(50)]
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with Producer(f"127.0.0.1:{port}", topic, spool_dir=tmp_path, delivery_timeout_s=0.3) as producer:
        first = producer.emit(same_key_order[0]).result(timeout=10)
        assert first == Receipt("spooled", first.key, None)
        answers = producer.emit_many(same_key_order[1:])
        assert {answer.state for answer in answers if isinstance(answer, Receipt)} == {"spooled"}
        assert producer.spooled_bytes > 0
        assert not producer.wait_drained(0.1)
        with _gate(broker, port):
            assert producer.wait_drained(15)
            assert producer.spooled_bytes == 0
            assert producer.emit(_draft(8)).result(timeout=10).state == "acked"
    records = _records(broker, topic, 51)
    numbers = [msgspec.json.decode(r.value())["metadata"]["n"] for r in records if r.key() == first.key]
    assert numbers == list(range(50))
    assert all(record.headers() == [("schema-version", b"1")] for record in records)


def test_what_the_client_still_holds_is_spooled_before_anything_newer(nowhere: str, topic: str, tmp_path: Path) -> None:
    with Producer(nowhere, topic, spool_dir=tmp_path, delivery_timeout_s=0.5) as producer:
        first = producer.emit(_draft(0))
        number = 1
        while not first.done():
            # The last of these are younger than the timeout when the first one fails.
            producer.emit(_draft(number))
            number += 1
            time.sleep(0.005)
        producer.emit(_draft(number))
        assert producer.flush(10) == 0
    spool = Spool(tmp_path / topic, 1 << 20)
    kept: list[bytes] = []
    for segment in sorted((tmp_path / topic).glob("*.segment")):
        kept += [record.key for record in spool.read(segment).records]
    assert kept == [dedup_key("analysis-worker", f"job-{n}", "PHOTO_ANALYSIS_DEEP") for n in range(number + 1)]


def test_what_an_earlier_process_spooled_is_sent_first(broker: str, nowhere: str, topic: str, tmp_path: Path) -> None:
    with Producer(nowhere, topic, spool_dir=tmp_path, delivery_timeout_s=0.3) as before:
        before.emit(_draft(1, metadata={"n": 1})).result(timeout=10)
    with Producer(broker, topic, spool_dir=tmp_path) as producer:
        producer.emit(_draft(1, metadata={"n": 2})).result(timeout=10)
        assert producer.wait_drained(10)
        producer.flush(10)
    assert [msgspec.json.decode(record.value())["metadata"]["n"] for record in _records(broker, topic, 2)] == [1, 2]


def test_a_spooled_event_carries_the_time_of_its_emitting(broker: str, nowhere: str, topic: str, tmp_path: Path) -> None:
    with Producer(nowhere, topic, spool_dir=tmp_path, delivery_timeout_s=0.3, clock=lambda: NOW) as producer:
        producer.emit(_draft(1)).result(timeout=10)
    with Producer(broker, topic, spool_dir=tmp_path) as producer:
        assert producer.wait_drained(10)
    (record,) = _records(broker, topic, 1)
    assert msgspec.json.decode(record.value())["occurredAt"] == "2026-11-21T10:00:00.123Z"


def test_a_full_spool_is_an_error_and_what_it_holds_is_kept(broker: str, nowhere: str, topic: str, tmp_path: Path) -> None:
    with Producer(nowhere, topic, spool_dir=tmp_path, spool_bytes_max=1_000, delivery_timeout_s=0.3) as producer:
        assert producer.emit(_draft(0)).result(timeout=10).state == "spooled"
        answers = producer.emit_many(_draft(number) for number in range(1, 20))
        with pytest.raises(SpoolFull, match="spool_bytes_max"):
            producer.emit(_draft(20))
    kept = sum(isinstance(answer, Receipt) for answer in answers)
    assert 0 < kept < 19
    assert all(isinstance(answer, SpoolFull) for answer in answers[kept:])
    with Producer(broker, topic, spool_dir=tmp_path) as producer:
        assert producer.wait_drained(10)
    assert len(_records(broker, topic, kept + 1)) == kept + 1


def test_closing_spools_what_has_no_answer_yet(nowhere: str, topic: str, tmp_path: Path) -> None:
    producer = Producer(nowhere, topic, spool_dir=tmp_path, delivery_timeout_s=30)
    futures = [producer.emit(_draft(number)) for number in range(10)]
    assert producer.close(0.05) == 10
    assert {future.result(timeout=0).state for future in futures} == {"spooled"}
    assert producer.close() == 0
    with pytest.raises(Closed):
        producer.emit(_draft(11))


def test_closing_without_a_spool_fails_what_has_no_answer_yet(nowhere: str, topic: str) -> None:
    producer = Producer(nowhere, topic, delivery_timeout_s=30)
    future = producer.emit(_draft(1))
    producer.close(0.05)
    with pytest.raises(DeliveryFailed):
        future.result(timeout=0)


def test_an_answer_cannot_be_cancelled(broker: str, topic: str) -> None:
    with Producer(broker, topic) as producer:
        future = producer.emit(_draft(1))
        assert not future.cancel()
        assert future.result(timeout=10).state == "acked"


def test_a_client_in_a_fatal_state_is_replaced_and_its_events_are_not_lost(
    broker: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Failing(confluent_kafka.Producer):
        def produce(self, *args: Any, **kwargs: Any) -> None:
            if self is made[0]:
                raise confluent_kafka.KafkaException(
                    confluent_kafka.KafkaError(confluent_kafka.KafkaError._FATAL, "fenced", fatal=True)
                )
            super().produce(*args, **kwargs)

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append(Failing(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(confluent_kafka, "Producer", make)
    with Producer(broker, topic) as producer:
        assert producer.emit(_draft(1)).result(timeout=10).state == "acked"
    assert len(made) == 2


def test_the_promise_cannot_be_configured_away(broker: str, topic: str) -> None:
    config = {
        "bootstrap.servers": broker,
        "acks": "0",
        "enable.idempotence": False,
        "partitioner": "random",
        "delivery.timeout.ms": 1,
    }
    with Producer(config, topic) as producer:
        answers = producer.emit_many(_draft(number) for number in range(20))
    for answer in answers:
        assert isinstance(answer, Receipt)
        assert answer.position is not None
        assert answer.position.partition == partition_of(answer.key, PARTITIONS)


def test_the_package_imports_without_the_kafka_client_and_says_what_is_missing() -> None:
    program = """
import sys
sys.modules["confluent_kafka"] = None
import meterline
try:
    meterline.Producer("localhost:9092")
except ImportError as error:
    assert "meterline[kafka]" in str(error), error
else:
    raise SystemExit("no error")
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
