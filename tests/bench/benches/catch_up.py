"""A backlog of two million events after the consumer was away, while a thousand a second go on arriving: memory, no rebalance."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence

from runtime import kafka
from runtime.settings import Settings
from store import topic_state
from tests.bench.events import PARTITIONS, key_of, memory_mb, publish, value_of
from tests.bench.figures import Figure, at_most, reported
from tests.bench.place import Place
from tests.fakes.pipeline import Pipeline

BACKLOG = 2_000_000
ARRIVING_A_SECOND = 1_000
MEMORY_MB_MAX = 1024
_BEHIND_MAX = 2 * ARRIVING_A_SECOND
_WITHIN_S = 400.0
_TAKEN = "partition taken"


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    while True:
        with place.corner(topic_partitions=PARTITIONS) as settings:
            place.say(f"publishing {BACKLOG:,} events")
            publish(settings, settings.topic_events, BACKLOG)
            with Pipeline(settings, place.folder) as pipeline:
                yield _caught_up(settings, pipeline)


def _caught_up(settings: Settings, pipeline: Pipeline) -> list[Figure]:
    stop = threading.Event()
    arriving = threading.Thread(target=_arrive, args=(settings, stop), daemon=True)
    admin = kafka.admin(settings)
    child = pipeline.consume()
    arriving.start()
    began, deadline, early_mb = time.monotonic(), time.monotonic() + _WITHIN_S, 0.0
    try:
        while True:
            done = sum(pipeline.committed().values())
            if done > BACKLOG // 5 and not early_mb:
                early_mb = memory_mb(child)
            if sum(topic_state.log_ends(admin, pipeline.topic, pipeline.partitions)) - done < _BEHIND_MAX:
                break
            if time.monotonic() > deadline or child.poll() is not None:
                raise RuntimeError(f"{done} records are committed; the consumer says: {child.tail()}")
            time.sleep(0.2)
    finally:
        stop.set()
        arriving.join()
    seconds, most_mb = time.monotonic() - began, memory_mb(child)
    taken = child.logged().count(_TAKEN)
    return [
        at_most("catch-up.memory", most_mb, "MB", MEMORY_MB_MAX, f"the limit of {MEMORY_MB_MAX} MB"),
        at_most("catch-up.growth", most_mb / early_mb, "times", 1.5, "what it held after a fifth of the backlog"),
        at_most("catch-up.taken", taken / PARTITIONS, "times", 1, "each partition taken once: no rebalance"),
        reported("catch-up", done / seconds, "events/s", ARRIVING_A_SECOND, "the events that go on arriving"),
    ]


def _arrive(settings: Settings, stop: threading.Event) -> None:
    """New events, ten at a time."""
    producer, number = kafka.producer(settings), BACKLOG
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    while not stop.wait(10 / ARRIVING_A_SECOND):
        for _ in range(10):
            producer.produce(settings.topic_events, value=value_of(number, at), key=key_of(number))
            number += 1
        producer.poll(0)
    producer.flush(30.0)
