"""Reading the log: messages of the client into the lanes of their partitions."""

from __future__ import annotations

import itertools
import logging
import operator
import threading
import time
from collections.abc import Iterable, Sequence

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message

from consumers.partitions import Partitions
from metering.records import NO_HEADERS, USUAL_HEADERS, Headers, Records
from meterline_schemas.event import SCHEMA_VERSION_HEADER
from meterline_schemas.types import Offset
from runtime import metrics
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings

logger = logging.getLogger(__name__)

_CONSUME_MAX = 10_000
_IDLE_POLL_S = 0.1
_BUSY_POLL_S = 0.005
_WINDOWS_MAX = 4
"""How many waiting windows a small cycle gathers for while the one before it is being stored."""
_SMALL_CYCLE = 2_000
"""Fewer records than this cost little more than one: what a cycle costs by itself is most of it."""

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


class LogReader:
    """Polls the client and fills the lanes; rebalances happen within its polls."""

    def __init__(self, settings: Settings, consumer: Consumer, partitions: Partitions, stop: threading.Event) -> None:
        self._settings, self._consumer, self._partitions, self._stop = settings, consumer, partitions, stop

    def gather(self) -> None:
        """Reads records into the lanes: until the waiting window ends, or the cycle is full.

        While a cycle is being stored, another small one would only wait behind it, and whatever comes later behind both: it
        gathers on instead, for some windows at most. So a store that is slow for a while makes larger cycles, not a queue.
        A lane that kept records from a cut range counts too, so that the bound holds for the cycle as a whole.
        """
        waiting, size = self._waiting()
        first = self._consumer.poll(0 if waiting else self._idle_poll_s())
        self._partitions.serve()
        if first is not None:
            self._take([first])
            waiting, size = self._waiting()
        window_s = self._settings.range_window_ms / 1000
        began_s = time.monotonic()
        while waiting < self._settings.range_events_max and size < self._settings.range_bytes_max:
            room = min(_CONSUME_MAX, self._settings.range_events_max - waiting)
            messages = self._consumer.consume(room, 0)
            self._partitions.serve()
            self._take(messages)
            if not messages:
                windows = _WINDOWS_MAX if waiting < _SMALL_CYCLE and self._partitions.storing() else 1
                left_s = began_s + windows * window_s - time.monotonic()
                if left_s <= 0 or not waiting or self._stop.is_set():
                    return
                late = self._consumer.poll(min(left_s, _BUSY_POLL_S))
                if late is not None:
                    self._take([late])
            waiting, size = self._waiting()

    def _idle_poll_s(self) -> float:
        """Short while a cycle is on its way, for its commit waits for the end of the poll."""
        return _BUSY_POLL_S if any(len(lane.pending) for lane in self._partitions.lanes()) else _IDLE_POLL_S

    def _waiting(self) -> tuple[int, int]:
        """Records and bytes in the lanes."""
        lanes = list(self._partitions.lanes())
        return sum(lane.waiting for lane in lanes), sum(lane.waiting_bytes for lane in lanes)

    def _take(self, messages: list[Message]) -> None:
        """Puts messages into their lanes, in runs of one partition. Errors of the log that do not pass end the process."""
        start = 0
        # By identity: the client's error, compared with None, answers and leaves an exception behind that nobody raised.
        for at, error in [(at, error) for at, error in enumerate(map(Message.error, messages)) if error is not None]:
            self._take_records(messages[start:at])
            self._take_error(messages[at], error)
            start = at + 1
        self._take_records(messages[start:])

    def _take_records(self, messages: list[Message]) -> None:
        if not messages:
            return
        owners = np.array(list(map(Message.partition, messages)))
        cuts = [0, *(np.flatnonzero(owners[1:] != owners[:-1]) + 1).tolist(), len(messages)]
        for start, end in itertools.pairwise(cuts):
            lane = self._partitions.lane(int(owners[start]))
            if lane is not None:  # else of a partition given back while the messages were on their way
                lane.take(records_of(messages[start:end]))

    def _take_error(self, message: Message, error: KafkaError) -> None:
        if error.code() != KafkaError._PARTITION_EOF:
            check_passes(error)
            return
        partition, offset = message.partition(), message.offset()
        lane = self._partitions.lane(partition) if partition is not None else None
        if lane is not None and offset is not None and offset > lane.next_offset:
            lane.reached_end(Offset(offset))


def check_passes(error: KafkaError) -> None:
    """Notes an error that the client outlives; raises MeterlineExit for one that it does not."""
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION):
        raise MeterlineExit(
            Exit.LOG_TRUNCATED,
            f"the log no longer holds the position to go on from ({error.str()}); see docs/operations.md, 'Log truncated'",
        )
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC):
        raise MeterlineExit(Exit.TOPIC_REPLACED, f"the events topic is gone ({error.str()}); see `meterline topics show`")
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


# The client's method returns a list with a hole in it AND sets an exception; called by the interpreter's short way the
# exception is not seen, and touching the hole ends the process. This way of calling looks at both.
_read_headers = operator.methodcaller("headers")
_UNREADABLE = ((SCHEMA_VERSION_HEADER, b"unreadable: a header's name is not UTF-8"),)
_USUAL = list(USUAL_HEADERS)


def records_of(messages: Sequence[Message]) -> Records:
    """The records in messages of one partition that carry no error."""
    size = len(messages)
    return Records(
        np.fromiter(map(Message.offset, messages), dtype=np.int64, count=size),
        list(map(Message.value, messages)),
        list(map(Message.key, messages)),
        headers_of(messages),
        np.fromiter((found[1] for found in map(Message.timestamp, messages)), dtype=np.int64, count=size),
    )


def headers_of(messages: Sequence[Message]) -> list[Headers]:
    """Each record's headers, an absent value as an empty one.

    A name that is not UTF-8 cannot be read by the client; such a record states no schema version that we could trust,
    and is decided like one of a version that nobody knows. The client must not be asked a second time for it.
    """
    found: list[Headers] = []
    reading = map(_read_headers, messages)
    while True:
        try:
            for raw in reading:
                found.append(  # noqa: PERF401 - so that what was read before an error is kept
                    NO_HEADERS if not raw else USUAL_HEADERS if raw == _USUAL else _headers(raw)
                )
        except (SystemError, UnicodeDecodeError):
            found.append(_UNREADABLE)
            continue
        return found


def _headers(raw: Iterable[tuple[str, str | bytes | None]]) -> Headers:
    return tuple((str(header[0]), _bytes(header[1])) for header in raw)


def _bytes(raw: str | bytes | None) -> bytes:
    return raw.encode() if isinstance(raw, str) else raw or b""
