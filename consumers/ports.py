"""The real stores behind the storing thread's ports: ClickHouse, the deltas topic, the consumer group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from urllib3.exceptions import HTTPError

from consumers.patience import Retriable
from metering.ranges import Decided
from meterline_schemas.delta import DELTA_SCHEMA_VERSION
from runtime.crash import armed, crash_point
from runtime.exits import Exit, MeterlineExit
from runtime.kafka import REQUEST_TIMEOUT_S
from store import event_log

CLICKHOUSE_AWAY = (ClickHouseError, HTTPError, OSError)
"""What a call to ClickHouse raises when the server is away, busy or refusing. All are worth another try: the rows were
made by us to the table's schema, so a refusal (too many parts, no disk) is about the server's state."""

_NOT_OURS = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._FENCED,
    }
)
_INSERTING = "consumer.inserting"
_HEADERS: list[tuple[str, str | bytes | None]] = [("schema-version", str(DELTA_SCHEMA_VERSION).encode())]


class ClickHouseRows:
    """One client, connected at the first insert and again after a failure; for one thread."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None

    def insert(self, admitted: pa.Table, rejects: pa.Table) -> None:
        try:
            if self._client is None:
                self._client = self._connect()
            event_log.insert(self._client, admitted, rejects, _midway())
        except CLICKHOUSE_AWAY as error:
            self._client = None
            raise Retriable(_first_line(error)) from error


def _midway() -> Callable[[], None] | None:
    """Where a test wants the process to die within an insert."""
    return partial(crash_point, _INSERTING) if armed(_INSERTING) else None


class DeltaTopic:
    """The deltas topic, same partition number as the events'."""

    def __init__(self, connect: Callable[[], Producer], topic: str, timeout_s: float = 35.0) -> None:
        self._connect, self._topic, self._timeout_s = connect, topic, timeout_s
        # At once, so that the first delta does not wait for a connection and a producer id.
        self._producer: Producer | None = connect()

    def announce(self, ranges: Sequence[Decided]) -> None:
        problems: list[str] = []
        acked, too_large = 0, False

        def on_delivery(error: KafkaError | None, _: object) -> None:
            nonlocal acked, too_large
            if error is not None:
                problems.append(str(error))
                too_large = too_large or error.code() == KafkaError.MSG_SIZE_TOO_LARGE
            else:
                acked += 1

        if self._producer is None:
            self._producer = self._connect()
        try:
            for decided in ranges:
                self._producer.produce(
                    self._topic,
                    value=decided.announcement,
                    partition=decided.span.partition,
                    headers=_HEADERS,
                    on_delivery=on_delivery,
                )
            self._producer.flush(self._timeout_s)
        except (BufferError, KafkaException) as error:
            problems.append(str(error))
        if too_large:
            raise MeterlineExit(
                Exit.TOPIC_SETTINGS,
                f"{self._topic} refuses a delta as too large ({problems[0]}): its max.message.bytes was lowered. Started again, "
                "ranges are cut to what it takes; `meterline topics apply` puts the topic right",
            )
        if problems or acked != len(ranges):
            # What is still queued must not be written behind a later cycle's delta: that producer ends here.
            self._producer.purge()
            self._producer.flush(1.0)
            self._producer = None
            raise Retriable(problems[0] if problems else f"no ack within {self._timeout_s} s")


class GroupOffsets:
    """The consumer group's offsets for one topic, through the consumer that is its member."""

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer, self._topic = consumer, topic

    def commit(self, positions: Sequence[tuple[int, int, str]]) -> None:
        wanted = [TopicPartition(self._topic, partition, offset, metadata) for partition, offset, metadata in positions]
        try:
            answered = self._consumer.commit(offsets=wanted, asynchronous=False)
            problems = [part.error for part in answered or [] if part.error is not None]
        except KafkaException as error:
            problems = [error.args[0]]
        if not problems:
            return
        for problem in problems:
            if problem.code() in _NOT_OURS:
                raise MeterlineExit(
                    Exit.OWNERSHIP_LOST,
                    f"the group refused a commit ({problem}): another member owns the partitions; start again",
                )
        raise Retriable(str(problems[0]))

    def committed_notes(self, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        """(offset, metadata) of each partition that the group has committed. Raises Retriable."""
        try:
            answered = self._consumer.committed([TopicPartition(self._topic, p) for p in partitions], timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise Retriable(str(error)) from error
        for part in answered:
            if part.error is not None:
                raise Retriable(str(part.error))
        return {
            part.partition: (part.offset, part.metadata or "") for part in answered if part.offset not in (OFFSET_INVALID, -1)
        }


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
