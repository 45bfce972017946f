"""The outbox relay: publishes what transactions have promised, and notes where each record stands.

A turn, in one transaction:

1. claim rows, which others then skip;
2. publish them, and wait for the broker's acknowledgement of each;
3. note the positions, in the outbox and in the holds that were settled with it; commit.

Dying between 2 and 3 publishes again. That is safe: the copies are equal, the first in the log is admitted, and whichever was
acknowledged stands at or behind it, so that a fence which has passed the acknowledged one has passed the first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from runtime import kafka, metrics
from runtime.crash import crash_point
from runtime.life import Backoff
from runtime.repeating import repeat_until
from runtime.settings import Settings
from store import outbox
from store.outbox import Waiting

logger = logging.getLogger(__name__)

BATCH_MAX = 500
IDLE_S = 0.25
"""How long a row waits that another process has promised; one's own wake the relay at once."""
DELIVERY_TIMEOUT_MS = 5_000
POLL_S = 0.1


class Relay:
    """For one thread. Safe beside other copies: rows that one has claimed are skipped by the others."""

    def __init__(self, settings: Settings, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._settings = settings
        self._connect = connect
        self._producer: Producer | None = None
        self._promised = threading.Event()
        self._backoff = Backoff()

    def promised(self) -> None:
        """Something was added to the outbox. From any thread; never blocks."""
        self._promised.set()

    def run_until(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set, a turn's time at most after it. Outlives an absent Postgres and an absent Kafka."""
        repeat_until(stop, "entitlements", "outbox relay", self._connect, self._round)
        if self._producer is not None:
            self._producer.flush(POLL_S)

    def _round(self, connection: psycopg.Connection[Any]) -> float:
        """A turn; how long to wait before the next one."""
        self._promised.clear()
        claimed, published = self.turn(connection)
        if claimed > published:
            return self._backoff.wait_s()
        self._backoff.reset()
        if claimed < BATCH_MAX:
            self._promised.wait(IDLE_S)
        return 0.0

    def turn(self, connection: psycopg.Connection[Any]) -> tuple[int, int]:
        """One batch: how many rows were claimed, and how many of them were acknowledged. Raises psycopg.Error."""
        with connection.transaction():
            waiting = outbox.claim(connection, self._settings.topic_events, BATCH_MAX)
            acked = self._publish(waiting) if waiting else {}
            if acked:
                crash_point("relay.acked")
                outbox.acknowledged(connection, acked)
        with connection.transaction():
            backlog = outbox.backlog(connection)
        metrics.OUTBOX_WAITING.set(backlog.rows)
        metrics.OUTBOX_OLDEST_SECONDS.set(backlog.oldest_s)
        again = sum(row.again for row in waiting if row.id in acked)
        metrics.OUTBOX_RELAYED.labels("published").inc(len(acked) - again)
        metrics.OUTBOX_RELAYED.labels("published_again").inc(again)
        metrics.OUTBOX_RELAYED.labels("failed").inc(len(waiting) - len(acked))
        return len(waiting), len(acked)

    def _publish(self, waiting: Sequence[Waiting]) -> dict[int, tuple[int | None, int, int]]:
        """(epoch, partition, offset) by row of those that were acknowledged; returns when each was, or failed."""
        if self._producer is None:
            timeouts = {"delivery.timeout.ms": DELIVERY_TIMEOUT_MS, "linger.ms": 0}
            self._producer = kafka.producer(self._settings, **timeouts)
        acked: dict[int, tuple[int | None, int, int]] = {}
        failed: dict[int, str] = {}
        for row in waiting:

            def delivered(error: KafkaError | None, message: Message, row: Waiting = row) -> None:
                partition, offset = message.partition(), message.offset()
                if error is None and partition is not None and offset is not None and offset >= 0:
                    acked[row.id] = (row.epoch, partition, offset)
                else:
                    failed[row.id] = error.str() if error is not None else "acknowledged without a position"

            record = row.record
            headers: list[tuple[str, str | bytes | None]] = [(name, value.encode()) for name, value in record.headers.items()]
            try:
                self._producer.produce(record.topic, record.value, record.key, headers=headers, on_delivery=delivered)
            except (BufferError, KafkaException) as error:
                failed[row.id] = str(error)
        while len(acked) + len(failed) < len(waiting):
            # Bounded by the delivery timeout: each record is acknowledged or given up by then.
            self._producer.poll(POLL_S)
        if failed:
            metrics.RETRIES.labels("entitlements", "kafka").inc()
            some = next(iter(failed.values()))
            logger.warning("promised records were not published; tried again", extra={"records": len(failed), "error": some})
        return acked
