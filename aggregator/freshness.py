"""The freshness sampler: at which time the log ended where, so that a check can say what its counters cover.

A sample is (time, ends), the time read before the ends: at that time the log ended at or below them. While the ends
stand still the newest sample's `seen_until` moves; idle partitions pass at once, a dead sampler lets `asOf` age.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from confluent_kafka import KafkaException

from runtime import metrics
from runtime.locks import AdvisoryLock
from store.freshness import covered_until, store_sample, trim_samples

logger = logging.getLogger(__name__)

_TRIM_EVERY = 1_000


class Sampler:
    """Samples every `every_ms` until stopped; outlives absent stores, whose absence shows as an ageing `asOf`.

    `log` says in which epoch the log ends where; None while that cannot be said, and then there is no sample.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        log: Callable[[psycopg.Connection[Any]], tuple[int, list[int]] | None],
        every_ms: int,
        stop: threading.Event,
    ) -> None:
        self._connect, self._log = connect, log
        self._every_s, self._stop = every_ms / 1000, stop
        self.problems: dict[str, str] = {}
        """What is wrong with a dependency since the last sample, for /ready."""
        self.rounds = 0
        """For the watchdog: it goes on whatever is away."""

    def run(self) -> None:
        """Blocks until `stop` is set."""
        while not self._stop.is_set():
            try:
                with self._connect() as connection:
                    self._sample_on(connection)
            except (psycopg.Error, KafkaException) as error:
                dependency = "kafka" if isinstance(error, KafkaException) else "postgres"
                self.problems[dependency] = str(error)
                metrics.RETRIES.labels("aggregate", dependency).inc()
                logger.warning("the log's end was not sampled", extra={"problem": str(error)})
            self.rounds += 1
            self._stop.wait(1.0)

    def _sample_on(self, connection: psycopg.Connection[Any]) -> None:
        connection.autocommit = True
        samples = 0
        while not self._stop.wait(self._every_s):
            if samples == 0 and not self._chosen(connection):
                return
            seen = datetime.now(UTC)
            now = self._log(connection)
            if now is not None:
                store_sample(connection, now[0], seen, now[1])
            self.problems.clear()
            if samples % _TRIM_EVERY == 0:
                trim_samples(connection)
            samples += 1
            self.rounds += 1
            if samples % 4 == 0:
                self._report(connection)

    def _chosen(self, connection: psycopg.Connection[Any]) -> bool:
        """Of several aggregators one samples: the lock is held until its connection ends."""
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (AdvisoryLock.SAMPLER,)).fetchone()
        return row is not None and bool(row[0])

    def _report(self, connection: psycopg.Connection[Any]) -> None:
        covered, behind = covered_until(connection)
        metrics.FENCE_LAG.set(behind)
        if covered is not None:
            metrics.FRESHNESS_SECONDS.set(max(0.0, (datetime.now(UTC) - covered).total_seconds()))
