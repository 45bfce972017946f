"""`meterline aggregate`: the one place that knows Faust.

Faust carries the deltas topic; it acknowledges a batch when the loop body ends, HOWEVER it ends. So nothing leaves the
body but success: it retries in place while a store is away, and on anything else the process exits before Faust can
acknowledge. What Faust passes over by itself is found by the fence and counted from ClickHouse.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import faust
import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from aggregator.census import look_until
from aggregator.counting import Counting
from aggregator.freshness import Sampler
from aggregator.log_now import log_now
from aggregator.reconciling import Reconciler
from aggregator.retention import sweep_until
from aggregator.standing import Standings, StreamPositions
from runtime import clickhouse, kafka, metrics, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.life import Backoff, collect_seldom, serve_health
from runtime.settings import Settings
from runtime.watchdog import watchdog_of, watched
from store import epochs, group, topic_state

logger = logging.getLogger(__name__)

_BATCH_WITHIN_S = 0.005
"""How long the first delta of a batch waits for more: every event's counter waits as long. Under load they are there already."""
_WAITING_MIN = 64
_GC_EVERY_OBJECTS = 50_000
"""The lines of a delta are tuples by the thousand, none of which is garbage: the collector, at its own pace, would look at them
again and again."""
_METADATA_MAX_AGE_MS = 5_000
"""How soon partitions are found that the deltas topic was given for a new epoch."""


def _credentials(settings: Settings) -> Any:
    security = kafka.aiokafka_security(settings)
    if "sasl_mechanism" in security:
        return faust.SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            mechanism=security["sasl_mechanism"],
            ssl_context=security["ssl_context"],
        )
    return faust.SSLCredentials(security["ssl_context"]) if security["ssl_context"] is not None else None


def make_app(
    settings: Settings,
    epoch: epochs.Epoch,
    count: Callable[[Sequence[bytes | None]], None],
    positions: StreamPositions,
    stop: threading.Event,
) -> Any:
    """The Faust app: hands the records of the deltas topic to `count` in batches, one at a time, and notes how far it is."""
    datadir = settings.data_dir / "aggregator"
    # Faust makes the last folder of the path only.
    datadir.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        settings.aggregator_group,
        broker=[f"kafka://{server.strip()}" for server in settings.kafka_url.split(",")],
        broker_credentials=_credentials(settings),
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        broker_max_poll_records=1000,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.aggregator_instance,
        consumer_metadata_max_age_ms=_METADATA_MAX_AGE_MS,
        datadir=str(datadir),
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        # Deltas may be large: no more of them wait in the process than the next batch takes.
        stream_buffer_maxsize=max(_WAITING_MIN, settings.aggregator_batch_max),
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    deltas = app.topic(settings.topic_deltas, partitions=epoch.partitions, key_serializer="raw", value_serializer="raw")
    counting_thread = ThreadPoolExecutor(1, thread_name_prefix="counting")

    @app.agent(deltas, concurrency=1)
    async def count_deltas(stream: Any) -> AsyncIterator[None]:
        async for events in stream.take_events(settings.aggregator_batch_max, within=_BATCH_WITHIN_S):
            values = [event.message.value for event in events]
            counted = asyncio.get_running_loop().run_in_executor(counting_thread, count, values)
            await _whole(counted, settings.stop_within_s, lambda: bool(app.should_stop), stop)
            for event in events:
                positions.counted(event.message.partition, event.message.offset)
            yield

    @app.on_partitions_assigned.connect
    async def on_assigned(sender: Any, /, *assigned: Any, signal: Any, **_: Any) -> None:
        positions.assigned(part.partition for part in assigned[0] if part.topic == settings.topic_deltas)

    @app.on_partitions_revoked.connect
    async def on_revoked(sender: Any, /, *revoked: Any, signal: Any, **_: Any) -> None:
        positions.assigned(())  # it gives everything back, and takes what it keeps anew

    return app


async def _whole(counted: asyncio.Future[None], within_s: float, stopping: Callable[[], bool], stop: threading.Event) -> None:
    """Waits for a batch to be counted. Ends the process where it is not: after this, Faust acknowledges the batch.

    Cancelled because the process stops, it tells the counting thread not to wait for a store that is away.
    """
    try:
        await asyncio.shield(counted)
    except asyncio.CancelledError:
        if stopping():
            stop.set()
        done, _ = await asyncio.wait([counted], timeout=within_s)
        if not done or counted.exception() is not None:
            _leave(Exit.UNREACHABLE, "stopped before a batch was counted; it is read again at the next start")
        raise
    except MeterlineExit as error:
        _leave(error.code, str(error))
    except BaseException:
        logger.critical("counting failed for a reason nobody foresaw", exc_info=True)
        _leave(Exit.FAILED, "an unforeseen error while counting")


def _leave(code: Exit, why: str) -> None:
    logger.critical(why, extra={"exit": f"{code.value} {code.name}"})
    logging.shutdown()
    os._exit(code)


def _to_its_end(target: Callable[[], None]) -> None:
    """A loop that ends by an error would be missed by nobody until counters age or a fence stands still."""
    try:
        target()
    except BaseException:
        logger.critical("a loop beside the stream failed for a reason nobody foresaw", exc_info=True)
        _leave(Exit.FAILED, "an unforeseen error beside the stream")


@contextmanager
def _beside(targets: list[Callable[[], None]], stop: threading.Event) -> Iterator[None]:
    """Runs loops on threads while the block runs, and ends them with `stop`."""
    threads = [threading.Thread(target=_to_its_end, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(kafka.REQUEST_TIMEOUT_S)


def _wait_for_stores(settings: Settings, stop: threading.Event, admin: AdminClient, problems: dict[str, str]) -> epochs.Epoch:
    """The current epoch, once Postgres and Kafka answer: Faust leaves when there is no broker at its start."""
    backoff = Backoff()
    while True:
        try:
            with postgres.connect(settings) as connection:
                epoch = epochs.current_epoch(connection)
            if epoch is None:
                raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
            epochs.check_topic(topic_state.describe(admin, [epoch.topic])[epoch.topic], epoch)
        except (psycopg.OperationalError, KafkaException) as error:
            dependency = "postgres" if isinstance(error, psycopg.Error) else "kafka"
            problems[dependency] = str(error)
            metrics.RETRIES.labels("aggregate", dependency).inc()
            logger.warning("a dependency is away; trying again", extra={"dependency": dependency, "problem": str(error)})
            if stop.wait(backoff.wait_s()):
                raise MeterlineExit(Exit.UNREACHABLE, f"stopped while waiting: {error}") from error
        else:
            problems.pop("postgres", None)
            problems.pop("kafka", None)
            return epoch


def run(settings: Settings, stop: threading.Event) -> None:
    """Counts until SIGTERM or SIGINT. Raises MeterlineExit when the process must leave."""
    health = _Health()
    with serve_health(settings, health.checks()):
        _run(settings, stop, health)
    logger.info("stopped")


class _Health:
    """What /ready asks: while the stores are waited for, what is missing; then the parts themselves."""

    def __init__(self) -> None:
        self.waiting_for: dict[str, str] = {"stream": "not started yet"}
        self._look: Callable[[str], str | None] = self.waiting_for.get

    def ask(self, look: Callable[[str], str | None]) -> None:
        """From now on `look` answers for each name."""
        self._look = look

    def checks(self) -> dict[str, Callable[[], str | None]]:
        return {name: partial(self._problem, name) for name in ("kafka", "clickhouse", "postgres", "stream")}

    def _problem(self, name: str) -> str | None:
        return self._look(name)


def _run(settings: Settings, stop: threading.Event, health: _Health) -> None:
    admin = kafka.admin(settings)
    epoch = _wait_for_stores(settings, stop, admin, health.waiting_for)

    def connect() -> psycopg.Connection[Any]:
        return postgres.connect(settings)

    def connect_to_count() -> psycopg.Connection[Any]:
        # A recomputation reads ClickHouse while the fence row is locked.
        idle_s = 2 * settings.clickhouse_timeout_s + settings.postgres_timeout_s
        return postgres.connect(settings, idle_in_transaction_s=idle_s)

    def counting() -> Counting:
        return Counting(connect_to_count, lambda: clickhouse.client(settings), settings.retry_give_up_s, stop)

    sampler = Sampler(
        connect,
        lambda connection: log_now(connection, admin),
        settings.sampler_every_ms,
        stop,
    )
    onlooker = group.onlooker(settings)
    reconciler = Reconciler(
        connect,
        lambda epoch: group.committed(onlooker, epoch.topic, epoch.epoch, epoch.partitions),
        counting(),
        stop,
    )
    counter = counting()
    positions = StreamPositions()
    app = make_app(settings, epoch, counter.count, positions, stop)

    def look(name: str) -> str | None:
        if name == "stream":
            return None if app.started else "not started yet"
        return counter.problems.get(name) or sampler.problems.get(name)

    def excuses() -> str | None:
        return ", ".join(sorted(counter.problems)) or ("a rebalance" if app.rebalancing else None)

    watcher = kafka.admin(settings)  # the sampler's may be what hangs
    standings = Standings(
        positions,
        lambda: topic_state.log_ends(watcher, settings.topic_deltas, topic_state.partitions_of(watcher, settings.topic_deltas)),
        {"sampler": lambda: sampler.rounds, "reconciler": lambda: reconciler.rounds},
        excuses,
    )
    worker = faust.Worker(app, loglevel=settings.log_level.replace("warning", "warn"), override_logging=False, quiet=True)
    worker.spinner = None  # it would write to the terminal between our lines
    loops = [
        sampler.run,
        reconciler.run,
        lambda: sweep_until(stop, connect, settings),
        lambda: look_until(stop, connect, settings),
    ]
    collect_seldom(_GC_EVERY_OBJECTS)
    with _beside(loops, stop), watched(watchdog_of(settings), standings):
        health.ask(look)
        try:
            worker.execute_from_commandline()
        except SystemExit as left:
            if left.code not in (0, None):
                raise MeterlineExit(Exit.FAILED, f"the stream worker ended with status {left.code}; its log says why") from left
