"""`meterline consume`: the range chain on one process, two threads.

The main thread reads the log, decides, and hands cycles to the storing thread; a rebalance gives everything back and
takes it anew. Whatever cannot be retried ends the process with a named code, and the supervisor starts another.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumers.following import Following
from consumers.forwarding import Forwarder
from consumers.partitions import Partitions
from consumers.patience import Patience
from consumers.polling import LogReader
from consumers.reads import Reads
from consumers.standing import Standings
from metering.ranges import Pending, decide
from metering.reading import read
from metering.records import Record, Records, Span
from meterline_schemas.delta import Figures
from meterline_schemas.rules import NEWEST_RULES, RULES
from meterline_schemas.types import Epoch, Offset, Partition
from runtime import kafka, metrics
from runtime.crash import crash_point
from runtime.life import serve_health
from runtime.settings import Settings
from runtime.watchdog import watchdog_of, watched
from store import epochs, event_log

logger = logging.getLogger(__name__)

_WATCH_EVERY_S = 10.0


class Consuming:
    """One consumer process. `run` returns after a graceful stop, or raises MeterlineExit."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop
        self._patience = Patience(settings.retry_give_up_s, stop)
        self._consumer: Consumer = kafka.consumer(settings, **_membership(settings))
        self._reads = Reads(settings, self._consumer, self._patience)
        self._forwarder = Forwarder(settings, stop)
        self._partitions: Partitions | None = None
        self._watch_at = time.monotonic() + _WATCH_EVERY_S

    def run(self) -> None:
        _warm_up()
        gc.freeze()
        try:
            following = Following(self._reads, time.monotonic)
            partitions = self._partitions = Partitions(self._settings, self._consumer, following, self._reads, self._patience)
            reader = LogReader(self._settings, self._consumer, partitions, self._stop)
            partitions.take_up()
            self._forwarder.start()
            with watched(watchdog_of(self._settings), Standings(self._settings, partitions, self._patience)):
                while not self._stop.is_set():
                    reader.gather()
                    self._decide(following.epoch, partitions)
                    self._forwarder.check()
                    if following.moved_on():
                        partitions.take_up()
                    if time.monotonic() >= self._watch_at:
                        self._watch(following.epoch, partitions)
            partitions.finish()
        finally:
            self._forwarder.end(self._settings.stop_within_s / 5)
            # On the way out by an exception nothing more is committed; P dies with the process.
            if self._partitions is None or self._partitions.drop():
                self._consumer.close()
            else:
                # A call under way ends with the process. The client is not closed beneath it; the group will miss us.
                logger.warning("left with a call of the storing thread under way")
            self._reads.close()

    def _decide(self, epoch: epochs.Epoch, partitions: Partitions) -> None:
        """One cycle of what waits, handed to the storing thread; blocks while that has two of them waiting."""
        decider, storer = partitions.decider, partitions.storer
        if decider is None or storer is None:
            return
        storer.check()
        decider.acknowledge(storer.acknowledged())
        if not any(lane.has_work() for lane in decider.lanes.values()):
            return
        metrics.CYCLE_BYTES.set(sum(lane.waiting_bytes for lane in decider.lanes.values()))
        began = time.monotonic()
        # After the range is fetched and before it is decided: a rules version cannot begin unseen.
        cycle = decider.cycle(self._reads.rules(epoch))
        if cycle is not None:
            metrics.CYCLE_SECONDS.labels("decide").observe(time.monotonic() - began)
            metrics.CYCLE_RECORDS.set(sum(len(decided.span.records) for decided in cycle.ranges))
            crash_point("consumer.decided")
            storer.submit(cycle, self._stop)

    def _watch(self, epoch: epochs.Epoch, partitions: Partitions) -> None:
        """From time to time: the topic is still the one of its epoch, and how far behind we are."""
        self._watch_at = time.monotonic() + _WATCH_EVERY_S
        try:
            self._reads.check_topic_once(epoch)
        except KafkaException as error:
            logger.warning("the topic cannot be checked now", extra={"problem": str(error)})
        lag = 0
        for lane in partitions.lanes():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(epoch.topic, lane.partition), cached=True)
            lag += max(0, high - lane.next_offset)
        metrics.CONSUMER_LAG.set(lag)

    def checks(self) -> dict[str, Callable[[], str | None]]:
        """For /ready: each dependency by the last call to it, and whether partitions are taken."""

        def storing(dependency: str) -> str | None:
            storer = self._partitions.storer if self._partitions is not None else None
            return storer.problems.get(dependency) if storer is not None else None

        def problem(dependency: str) -> Callable[[], str | None]:
            return lambda: storing(dependency) or self._patience.problems.get(dependency)

        def taken() -> str | None:
            return None if self._partitions is not None and self._partitions.storer is not None else "no partitions are taken yet"

        return {name: problem(name) for name in ("kafka", "clickhouse", "postgres")} | {"partitions": taken}


def _warm_up() -> None:
    """Decides one record that is none, so that no range waits for what a first call imports or compiles.

    pyarrow's first array imports pandas where that is installed, which takes a second.
    """
    value = b'{"tenantId":"t","sourceService":"s","sourceEntityId":"e","usageType":"T","quantity":"1"}'
    record = Record(Offset(0), value, None, (), 0)
    span = Span(Epoch(1), Partition(0), Offset(0), Offset(1), Records.of([record]))
    decided = decide(read(span, RULES[NEWEST_RULES], 1), RULES[NEWEST_RULES], Pending(), {}, Figures())
    event_log.admitted_rows([decided])
    event_log.reject_rows([decided])


def _membership(settings: Settings) -> dict[str, Any]:
    """How the process takes part in its group."""
    config: dict[str, Any] = {
        "group.id": settings.consumer_group,
        "partition.assignment.strategy": "range",
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 1500,
        # A store may be away for as long as we are willing to wait; the group must not take us for dead meanwhile.
        "max.poll.interval.ms": round((settings.retry_give_up_s + 120) * 1000),
        "queued.max.messages.kbytes": 16_384,
    }
    if settings.consumer_instance is not None:
        config["group.instance.id"] = settings.consumer_instance
    return config


def run(settings: Settings, stop: threading.Event) -> None:
    """Consumes until `stop` is set. Raises MeterlineExit when the process must leave."""
    consuming = Consuming(settings, stop)
    with serve_health(settings, consuming.checks()):
        consuming.run()
    logger.info("stopped")
