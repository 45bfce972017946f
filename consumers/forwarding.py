"""What late producers still send to the topic of an ended epoch goes on to the topic of the epoch that goes on.

Such a record gets no verdict where it lies. It is sent again at least once, with the time at which the log took it first;
a second copy is a duplicate of the first. One process of all forwards, on a thread of its own:

1. Hold the lock; another one takes over when this connection ends.
2. Read records from where Postgres says that forwarding stands.
3. Send them, and wait until every one is acknowledged by all replicas.
4. Write down how far forwarding stands; only then go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from consumers.polling import check_passes, headers_of
from meterline_schemas.event import Event, decode
from meterline_schemas.ingest import FORWARDED_FROM_HEADER, INGESTED_AT_HEADER, ingested_ms
from meterline_schemas.key import partition_of
from meterline_schemas.rules import RULES, Rules
from runtime import kafka, metrics, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from runtime.settings import Settings
from store.epochs import Epoch, all_epochs, check_topic, forwarded, note_forwarded, rules_at, unretired
from store.topic_state import describe

logger = logging.getLogger(__name__)

BATCH_RECORDS_MAX = 1_000
"""Records read before they are sent: 64 MB at most."""

_READ_WITHIN_S = 0.2
_LOOK_EVERY_S = 1.0
_ACK_WITHIN_S = 35.0


class Forwarded(NamedTuple):
    """A record as it is sent on."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def forward(
    epoch: int,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    appended_ms: int,
    rules: Rules,
    partitions: int,
) -> Forwarded:
    """The record to send for the one at a position, to a topic of so many partitions. Pure.

    It goes where its event's key leads to; one that holds no event goes anywhere, for it is invalid everywhere.
    """
    first_ms = ingested_ms(epoch, headers, appended_ms, rules)
    event = decode(value, headers, first_ms, rules)
    kept = tuple(header for header in headers if header[0] not in (INGESTED_AT_HEADER, FORWARDED_FROM_HEADER))
    said = ((INGESTED_AT_HEADER, b"%d" % first_ms), (FORWARDED_FROM_HEADER, f"{epoch}/{partition}/{offset}".encode()))
    to = partition_of(event.key, partitions) if isinstance(event, Event) else offset % partitions
    return Forwarded(to, key, value, kept + said)


class Forwarder:
    """A thread from `start` to `end`. It outlives absent stores; `check` raises what it cannot outlive."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop
        self._failure: BaseException | None = None
        self._producer: Producer | None = None
        self._thread = threading.Thread(target=self._run, name="forwarding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises the failure that ended the thread, if one did."""
        if self._failure is not None:
            raise self._failure

    def end(self, within_s: float) -> None:
        """Waits for the thread, whose `stop` is set or which is left behind: whoever comes next repeats its batch."""
        if self._thread.ident is not None and self._stop.is_set():
            self._thread.join(within_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with postgres.connect(self._settings) as connection:
                        connection.autocommit = True
                        self._forward_on(connection)
                except (psycopg.Error, KafkaException, TimeoutError) as error:
                    dependency = "postgres" if isinstance(error, psycopg.Error) else "kafka"
                    metrics.RETRIES.labels("consume", dependency).inc()
                    logger.warning("late records were not forwarded yet", extra={"problem": str(error)})
                self._stop.wait(_LOOK_EVERY_S)
        except BaseException as error:  # noqa: BLE001 - kept whole and raised by the deciding thread, which leaves
            self._failure = error

    def _forward_on(self, connection: psycopg.Connection[Any]) -> None:
        """Until stopped. Raises when a store fails; the lock goes with the connection."""
        chosen = False
        while not self._stop.is_set():
            epochs = all_epochs(connection)
            ended = unretired(epochs)
            chosen = bool(ended) and (chosen or self._chosen(connection))
            if chosen:
                self._forward_from(connection, ended, epochs)
            else:
                self._stop.wait(_LOOK_EVERY_S)

    def _forward_from(self, connection: psycopg.Connection[Any], ended: Sequence[Epoch], epochs: Sequence[Epoch]) -> None:
        """Until the epochs are other ones, or stopped."""
        current, rules = epochs[-1], self._rules(connection, epochs[-1])
        states = describe(kafka.admin(self._settings), [epoch.topic for epoch in ended])
        for epoch in ended:
            check_topic(states[epoch.topic], epoch)
        by_topic = {epoch.topic: epoch for epoch in ended}
        reader = self._reader(connection, ended)
        try:
            look_at = time.monotonic() + _LOOK_EVERY_S
            while not self._stop.is_set():
                messages = reader.consume(BATCH_RECORDS_MAX, _READ_WITHIN_S)
                self._pass_on(connection, messages, by_topic, current, rules)
                if time.monotonic() >= look_at:
                    if all_epochs(connection) != epochs:
                        return
                    rules = self._rules(connection, current)
                    look_at = time.monotonic() + _LOOK_EVERY_S
        finally:
            reader.close()

    def _chosen(self, connection: psycopg.Connection[Any]) -> bool:
        """The lock is held until the connection ends."""
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (AdvisoryLock.FORWARDER,)).fetchone()
        return row is not None and bool(row[0])

    def _rules(self, connection: psycopg.Connection[Any], current: Epoch) -> Rules:
        version = max(rules_at(connection, current.epoch, partition)[-1][1] for partition in range(current.partitions))
        rules = RULES.get(version)
        if rules is None:
            raise MeterlineExit(
                Exit.RULES_UNKNOWN, f"records are forwarded under rules version {version}; this build knows {sorted(RULES)}"
            )
        return rules

    def _reader(self, connection: psycopg.Connection[Any], ended: Iterable[Epoch]) -> Consumer:
        """Reads from where forwarding stands. Its group never commits and has no members."""
        reader = kafka.consumer(self._settings, **{"group.id": f"{self._settings.consumer_group}-forwarder"})
        reader.assign(
            [
                TopicPartition(epoch.topic, partition, offset)
                for epoch in ended
                for partition, offset in enumerate(forwarded(connection, epoch.epoch))
            ]
        )
        return reader

    def _pass_on(
        self,
        connection: psycopg.Connection[Any],
        messages: Sequence[Message],
        by_topic: dict[str, Epoch],
        current: Epoch,
        rules: Rules,
    ) -> None:
        """Steps 3 and 4 of what was read. Raises KafkaException or TimeoutError when a record was not acknowledged."""
        moved: dict[int, dict[int, tuple[int, int]]] = {}
        sending: list[Forwarded] = []
        for message in messages:
            error, topic, partition, offset = message.error(), message.topic(), message.partition(), message.offset()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                check_passes(error)
                continue
            if topic is None or partition is None or offset is None:
                continue
            epoch = by_topic[topic]
            positions = moved.setdefault(epoch.epoch, {})
            _, sent = positions.get(partition, (0, 0))
            if error is not None:  # the log ends here: what lies below without a record is void
                positions[partition] = (offset, sent)
                continue
            positions[partition] = (offset + 1, sent + 1)
            (headers,), at_ms = headers_of([message]), message.timestamp()[1]
            sending.append(
                forward(epoch.epoch, partition, offset, message.key(), message.value(), headers, at_ms, rules, current.partitions)
            )
        self._send(current.topic, sending)
        for number, positions in sorted(moved.items()):
            note_forwarded(connection, number, positions)
        if sending:
            metrics.FORWARDED.inc(len(sending))
            logger.info("late records of an ended epoch forwarded", extra={"records": len(sending), "topic": current.topic})

    def _send(self, topic: str, records: Sequence[Forwarded]) -> None:
        if not records:
            return
        if self._producer is None:
            self._producer = kafka.producer(self._settings)
        problems: list[KafkaError] = []

        def on_delivery(error: KafkaError | None, _: object) -> None:
            if error is not None:
                problems.append(error)

        try:
            for record in records:
                self._producer.produce(
                    topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                    on_delivery=on_delivery,
                )
            left = self._producer.flush(_ACK_WITHIN_S)
        except BufferError as error:
            raise TimeoutError("the Kafka client takes no more records") from error
        if problems or left:
            self._producer = None  # it may be in a state that it does not leave by itself
            if problems:
                raise KafkaException(problems[0])
            raise TimeoutError(f"{left} records are not acknowledged after {_ACK_WITHIN_S:g} s")
