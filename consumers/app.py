"""`meterline consume`: the range chain on one process, two threads.

The main thread reads the log, decides, and hands cycles to the storing thread; a rebalance gives everything back and
takes it anew. Whatever cannot be retried ends the process with a named code, and the supervisor starts another.
"""

from __future__ import annotations

import gc
import logging
import operator
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import psycopg
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.assignment import Assigning
from consumers.deciding import Decider, RulesChanges, unfound
from consumers.lane import Lane
from consumers.patience import Patience, Retriable
from consumers.ports import CLICKHOUSE_AWAY, ClickHouseRows, DeltaTopic, GroupOffsets
from consumers.storing import Storer, committed_at
from metering.index import Hashes
from metering.ranges import Claim, Record
from meterline_schemas.event import SCHEMA_VERSION_HEADER
from meterline_schemas.types import Epoch, Offset
from runtime import clickhouse, kafka, metrics, postgres
from runtime.crash import crash_point
from runtime.exits import Exit, MeterlineExit
from runtime.life import serve_health
from runtime.settings import Settings
from store import epochs, event_log, fences, topic_state

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CONSUME_MAX = 10_000
_IDLE_POLL_S = 0.1
_BUSY_POLL_S = 0.005
_WATCH_EVERY_S = 10.0

_PASSED_OVER = frozenset(
    {
        KafkaError._BAD_MSG,
        KafkaError._BAD_COMPRESSION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._NOT_IMPLEMENTED,
        KafkaError._UNDERFLOW,
        KafkaError.INVALID_MSG,
        KafkaError.MSG_SIZE_TOO_LARGE,
    }
)
"""Behind these the client goes on with the next records. A missing offset is void to us, so an event would be lost."""


class Consuming:
    """One consumer process. `run` returns after a graceful stop, or raises MeterlineExit."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop
        self._patience = Patience(settings.retry_give_up_s, stop)
        self._postgres: psycopg.Connection[Any] | None = None
        self._clickhouse: Client | None = None
        self._admin: AdminClient = kafka.admin(settings)
        self._consumer: Consumer = kafka.consumer(settings, **self._membership())
        self._decider: Decider | None = None
        self._storer: Storer | None = None
        self._watch_at = time.monotonic() + _WATCH_EVERY_S
        self._owns = False

    def _membership(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "group.id": self._settings.consumer_group,
            "partition.assignment.strategy": "range",
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1500,
            # A store may be away for as long as we are willing to wait; the group must not take us for dead meanwhile.
            "max.poll.interval.ms": round((self._settings.retry_give_up_s + 120) * 1000),
            "queued.max.messages.kbytes": 16_384,
        }
        if self._settings.consumer_instance is not None:
            config["group.instance.id"] = self._settings.consumer_instance
        return config

    # -- life ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        # pyarrow's first array imports pandas where that is installed, which takes a second: before partitions are taken.
        event_log.admitted_rows(())
        event_log.reject_rows(())
        gc.freeze()
        try:
            self._epoch = self._patience.until_done("postgres", self._read_epoch, (psycopg.OperationalError,))
            self._patience.until_done("kafka", self._check_topic, (KafkaException,))
            self._offsets = GroupOffsets(self._consumer, self._epoch.topic)
            topics = [self._epoch.topic]
            self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
            while not self._stop.is_set():
                self._turn()
            self._finish()
        finally:
            self._owns = False
            # On the way out by an exception nothing more is committed; P dies with the process.
            ended = self._storer is None or self._storer.abandon(self._settings.stop_within_s / 5)
            self._storer = self._decider = None
            if ended:
                self._consumer.close()
            else:
                # A call under way ends with the process. The client is not closed beneath it; the group will miss us.
                logger.warning("left with a call of the storing thread under way")
            if self._postgres is not None:
                self._postgres.close()

    def _finish(self) -> None:
        if self._storer is None:
            return
        if not self._storer.finish(self._settings.stop_within_s * 3 / 5):
            logger.warning("stopped with a cycle under way; it will be repeated by the next owner")
        self._storer.check()

    def _turn(self) -> None:
        """One cycle, or one idle wait."""
        self._gather()
        decider, storer = self._decider, self._storer
        if decider is None or storer is None:
            return
        storer.check()
        decider.acknowledge(storer.acknowledged())
        if any(lane.records or lane.eof is not None for lane in decider.lanes.values()):
            began = time.monotonic()
            # After the range is fetched and before it is decided: a rules version cannot begin unseen.
            changes: RulesChanges = self._patience.until_done("postgres", self._read_rules, (psycopg.OperationalError,))
            cycle = decider.cycle(changes)
            if cycle is not None:
                metrics.CYCLE_SECONDS.labels("decide").observe(time.monotonic() - began)
                metrics.CYCLE_RECORDS.set(sum(len(decided.span.records) for decided in cycle.ranges))
                crash_point("consumer.decided")
                if not storer.submit(cycle, self._stop):
                    return
        if time.monotonic() >= self._watch_at:
            self._watch()

    def _gather(self) -> None:
        """Reads records into the lanes: until the waiting window ends, or the cycle is full.

        A lane that kept records from a cut range counts too, so that the bound holds for the cycle as a whole.
        """
        waiting, size = self._waiting()
        first = self._consumer.poll(0 if waiting else self._idle_poll_s())
        self._serve()
        if first is not None:
            self._take(first)
        deadline = time.monotonic() + self._settings.range_window_ms / 1000
        while waiting < self._settings.range_events_max and size < self._settings.range_bytes_max:
            room = min(_CONSUME_MAX, self._settings.range_events_max - waiting)
            messages = self._consumer.consume(room, 0)
            self._serve()
            for message in messages:
                self._take(message)
            waiting, size = self._waiting()
            left_s = deadline - time.monotonic()
            if not messages:
                if left_s <= 0 or not waiting or self._stop.is_set():
                    return
                late = self._consumer.poll(min(left_s, _BUSY_POLL_S))
                if late is not None:
                    self._take(late)

    def _serve(self) -> None:
        """Between two polls: what the storing thread wants of the group."""
        if self._storer is not None:
            self._storer.serve()

    def _idle_poll_s(self) -> float:
        """Short while a cycle is on its way, for its commit waits for the end of the poll."""
        return _BUSY_POLL_S if any(len(lane.pending) for lane in self._lanes()) else _IDLE_POLL_S

    def _waiting(self) -> tuple[int, int]:
        """Records and bytes in the lanes."""
        lanes = list(self._lanes())
        return sum(len(lane.records) for lane in lanes), sum(lane.waiting_bytes for lane in lanes)

    def _lanes(self) -> Iterable[Lane]:
        return self._decider.lanes.values() if self._decider is not None else ()

    def _take(self, message: Message) -> None:
        """Puts a message into its lane. Errors of the log that do not pass end the process."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        lane = self._decider.lanes.get(partition) if self._decider is not None and partition is not None else None
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                if lane is not None and offset is not None and offset > lane.next_offset:
                    lane.reached_end(Offset(offset))
            else:
                self._passing(error)
            return
        if lane is None or offset is None:
            return  # of a partition given back while the message was on its way
        lane.take(Record(Offset(offset), message.value(), message.key(), headers_of(message), message.timestamp()[1]))

    def _passing(self, error: KafkaError) -> None:
        """Notes an error that the client outlives; raises MeterlineExit for one that it does not."""
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION):
            raise MeterlineExit(
                Exit.LOG_TRUNCATED,
                f"the log no longer holds the position to go on from ({error.str()}); see docs/operations.md, 'Log truncated'",
            )
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC):
            raise MeterlineExit(
                Exit.TOPIC_REPLACED, f"topic {self._epoch.topic} is gone ({error.str()}); see `meterline topics show`"
            )
        if error.code() in _PASSED_OVER:
            raise MeterlineExit(
                Exit.FAILED,
                f"the Kafka client cannot read a record and would pass it over ({error.str()}); its offset would count as void. "
                "Started again, it is read again: if that does not help, the log is damaged, see docs/operations.md",
            )
        if error.fatal():
            raise MeterlineExit(Exit.OWNERSHIP_LOST, f"the Kafka client cannot go on: {error.str()}")
        metrics.RETRIES.labels("consume", "kafka").inc()
        logger.warning("kafka reports a passing error", extra={"problem": error.str()})

    def _watch(self) -> None:
        """From time to time: the topic is still the one of its epoch, and how far behind we are."""
        self._watch_at = time.monotonic() + _WATCH_EVERY_S
        try:
            self._check_topic()
        except KafkaException as error:
            logger.warning("the topic cannot be checked now", extra={"problem": str(error)})
        lag = 0
        for lane in self._lanes():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._epoch.topic, lane.partition), cached=True)
            lag += max(0, high - lane.next_offset)
        metrics.CONSUMER_LAG.set(lag)

    # -- rebalances ----------------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        self._give_up_lanes()
        if not parts:
            return
        self._patience.until_done("kafka", self._check_topic, (KafkaException,))
        assigning = Assigning(
            epoch=Epoch(self._epoch.epoch),
            partitions=self._epoch.partitions,
            offsets=self._offsets,
            fences=lambda: self._patience.until_done("postgres", self._read_fences, (psycopg.OperationalError,)),
            clickhouse=lambda: clickhouse.client(self._settings),
            log_starts=self._log_starts,
            patience=self._patience,
        )
        lanes = assigning.lanes(part.partition for part in parts)
        self._decider = Decider(lanes, self._epoch.partitions, self._settings.delta_bytes_max, self._confirm)
        self._storer = Storer(
            ClickHouseRows(lambda: clickhouse.client(self._settings)),
            DeltaTopic(lambda: kafka.producer(self._settings), self._settings.topic_deltas),
            self._offsets,
            self._settings.retry_give_up_s,
            time.monotonic,
            {p: committed_at(lane.epoch, lane.next_offset, lane.rules_version, lane.figures) for p, lane in lanes.items()},
        )
        self._storer.start()
        consumer.assign([TopicPartition(self._epoch.topic, lane.partition, lane.next_offset) for lane in lanes.values()])
        self._owns = True

    def _on_revoke(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        # The member still owns the partitions while this runs: what waits may be finished and committed.
        if self._storer is not None and not self._storer.finish(self._settings.clickhouse_timeout_s):
            logger.warning("partitions given back with a cycle under way; the next owner repeats it")
        self._give_up_lanes()

    def _on_lost(self, consumer: Consumer, parts: list[TopicPartition]) -> None:
        # Another member owns them already: no commit may follow.
        self._give_up_lanes()

    def _give_up_lanes(self) -> None:
        """Drops C and P. Raises what ended the storing thread, or MeterlineExit when it does not end."""
        storer, self._storer, self._decider, self.ready = self._storer, None, None, False
        if storer is None:
            return
        within_s = self._settings.clickhouse_timeout_s + 15
        if not storer.abandon(within_s):
            raise MeterlineExit(Exit.OWNERSHIP_LOST, f"the storing thread did not stop within {within_s:g} s of a rebalance")
        storer.check()

    # -- reads ---------------------------------------------------------------------------------------------------

    def _connection(self) -> psycopg.Connection[Any]:
        if self._postgres is None or self._postgres.closed:
            self._postgres = postgres.connect(self._settings)
        return self._postgres

    def _reading(self, read: Callable[[psycopg.Connection[Any]], T]) -> T:
        """One transaction of reads on the kept connection, which is dropped after a failure."""
        connection = self._connection()
        try:
            with connection.transaction():
                return read(connection)
        except psycopg.OperationalError:
            connection.close()
            raise

    def _read_epoch(self) -> epochs.Epoch:
        epoch = self._reading(epochs.current_epoch)
        if epoch is None:
            raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
        return epoch

    def _read_rules(self) -> RulesChanges:
        return self._reading(lambda connection: epochs.rules_changes(connection, self._epoch.epoch))

    def _read_fences(self) -> list[fences.Fence]:
        return self._reading(lambda connection: fences.read_fences(connection, self._epoch.epoch))

    def _check_topic(self) -> None:
        epochs.check_topic(topic_state.describe(self._admin, [self._epoch.topic])[self._epoch.topic], self._epoch)

    def _log_starts(self) -> list[int]:
        try:
            return topic_state.log_starts(self._admin, self._epoch.topic, self._epoch.partitions)
        except KafkaException as error:
            raise Retriable(str(error)) from error

    def _confirm(self, hashes: Hashes) -> dict[bytes, Claim]:
        """The admitted rows of suspected keys. A hash that C holds and ClickHouse does not show is a lagging read."""

        def fetch() -> dict[bytes, Claim]:
            try:
                if self._clickhouse is None:
                    self._clickhouse = clickhouse.client(self._settings)
                claims = event_log.confirm(self._clickhouse, hashes)
            except CLICKHOUSE_AWAY:
                self._clickhouse = None
                raise
            missing = unfound(hashes, claims)
            if missing:
                raise Retriable(
                    f"ClickHouse does not show {len(missing)} rows that it acknowledged, key_hash {missing[0]} for one"
                )
            return claims

        claims: dict[bytes, Claim] = self._patience.until_done("clickhouse", fetch, CLICKHOUSE_AWAY)
        return claims

    def checks(self) -> dict[str, Callable[[], str | None]]:
        """For /ready: each dependency by the last call to it, and whether partitions are taken."""

        def problem(dependency: str) -> Callable[[], str | None]:
            def look() -> str | None:
                storing = self._storer.problems.get(dependency) if self._storer is not None else None
                return storing or self._patience.problems.get(dependency)

            return look

        named = {dependency: problem(dependency) for dependency in ("kafka", "clickhouse", "postgres")}
        return named | {"partitions": lambda: None if self._owns else "no partitions are taken yet"}


# The client's method returns a list with a hole in it AND sets an exception; called by the interpreter's short way the
# exception is not seen, and touching the hole ends the process. This way of calling looks at both.
_read_headers = operator.methodcaller("headers")


def headers_of(message: Message) -> tuple[tuple[str, bytes], ...]:
    """A record's headers, an absent value as an empty one.

    A name that is not UTF-8 cannot be read by the client; such a record states no schema version that we could trust,
    and is decided like one of a version that nobody knows.
    """
    try:
        found = _read_headers(message) or ()
    except (SystemError, UnicodeDecodeError):
        return ((SCHEMA_VERSION_HEADER, b"unreadable: a header's name is not UTF-8"),)
    return tuple((str(header[0]), _bytes(header[1])) for header in found)


def _bytes(raw: str | bytes | None) -> bytes:
    return raw.encode() if isinstance(raw, str) else raw or b""


def run(settings: Settings, stop: threading.Event) -> None:
    """Consumes until `stop` is set. Raises MeterlineExit when the process must leave."""
    consuming = Consuming(settings, stop)
    with serve_health(settings, consuming.checks()):
        consuming.run()
    logger.info("stopped")
