"""The deltas topic, read by position in the events: which range held an event, and the figures at a range's end.

Deltas of a partition stand in the order in which their ranges were committed; after a crash some stand again in other
cuts. So what is looked for is found by halving, one record a look. Records that are no deltas are passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from meterline_schemas.delta import Delta, decode_delta
from runtime import kafka
from runtime.settings import Settings
from store.positions import Position

READ_WITHIN_S = 10.0
_POLL_S = 0.5
_UNREADABLE_MAX = 100
"""Records in a row that are no deltas; behind more of them the topic is not ours."""


@dataclass(frozen=True)
class DeltaRange:
    """The range [from_offset, to_offset) that an event was announced in."""

    epoch: int
    partition: int
    from_offset: int
    to_offset: int
    rules_version: int
    admitted: int

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


class DeltaLog:
    """Reads single records of the deltas topic; for one thread. Every method raises KafkaException when it cannot."""

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer, self._topic = consumer, topic

    def halves(self, partition: int, passed: Callable[[Delta], bool]) -> tuple[Delta | None, Delta | None]:
        """The last delta of the partition that has `passed`, and the first one that has not; None where there is none.

        What has not passed must not pass again in a later delta, as "it ends at or below offset n" does not.
        """
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(self._topic, partition), timeout=kafka.REQUEST_TIMEOUT_S, cached=False
        )
        before: Delta | None = None
        behind: Delta | None = None
        while low < high:
            middle = (low + high) // 2
            at, delta = self._at(partition, middle, high)
            if delta is None:
                high = middle
            elif passed(delta):
                before, low = delta, at + 1
            else:
                behind, high = delta, middle
        return before, behind

    def range_of(self, at: Position) -> DeltaRange | None:
        """The range that announced the record at a position; None while there is none, or when the topic forgot it."""
        _, delta = self.halves(at.partition, lambda delta: (delta.epoch, delta.to_offset) <= (at.epoch, at.offset))
        if delta is None or delta.epoch != at.epoch or not delta.from_offset <= at.offset:
            return None
        events = sum(line.events for line in delta.lines)
        return DeltaRange(delta.epoch, delta.partition, delta.from_offset, delta.to_offset, delta.rules_version, events)

    def _at(self, partition: int, offset: int, end: int) -> tuple[int, Delta | None]:
        """The first delta in [offset, end) with where it stands; (end, None) when there is none."""
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])
        deadline = time.monotonic() + READ_WITHIN_S
        for _ in range(_UNREADABLE_MAX):
            message = None
            while message is None:
                if time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{self._topic} could not be read in time"))
                message = self._consumer.poll(_POLL_S)
            error, at = message.error(), message.offset()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return end, None
                raise KafkaException(error)
            if at is None or at >= end:
                return end, None
            try:
                return at, decode_delta(message.value() or b"")
            except ValueError:
                continue
        raise KafkaException(
            KafkaError(KafkaError._BAD_MSG, f"{self._topic} holds {_UNREADABLE_MAX} records in a row that are no deltas")
        )


@contextmanager
def delta_log(settings: Settings) -> Iterator[DeltaLog]:
    """Opens the settings' deltas topic for reading."""
    # An idle fetch of the partition read before would hold up the next one for half a second.
    consumer = kafka.consumer(settings, **{"group.id": f"{settings.consumer_group}-deltas", "fetch.wait.max.ms": 10})
    try:
        yield DeltaLog(consumer, settings.topic_deltas)
    finally:
        consumer.close()
