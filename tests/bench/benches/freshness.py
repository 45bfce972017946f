"""From the producer's send to the counter visible in Postgres, at 1,000 events a second, through real processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, Producer

from meterline_schemas.instants import format_instant
from runtime import kafka, postgres
from runtime.settings import Settings
from tests.bench.events import key_of, value_of
from tests.bench.figures import Figure, at_most
from tests.bench.place import Place
from tests.fakes.pipeline import Pipeline

A_SECOND = 1_000
SECONDS = 20
P50_MS_MAX, P99_MS_MAX = 100.0, 200.0
_WARM_UP = 2_000
_LOOK_EVERY_S = 0.002
_WITHIN_S = 60.0


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    with place.corner() as settings, Pipeline(settings, place.folder) as pipeline:
        pipeline.consume()
        pipeline.aggregate()
        place.say("warming up")
        first = 0
        # One for all runs: a producer's first record waits half a second for connections and a producer id.
        producer = kafka.producer(settings)
        _send(producer, pipeline.topic, range(first, first + _WARM_UP), _Sent())
        pipeline.settle()
        while True:
            first += _WARM_UP + A_SECOND * SECONDS
            waits_ms = _waits_ms(settings, producer, pipeline, first)
            p50, p99 = np.percentile(waits_ms, [50, 99])
            place.say(f"the longest of {len(waits_ms):,} took {waits_ms.max():.0f} ms")
            yield [
                at_most("freshness.p50", float(p50), "ms", P50_MS_MAX, "the limit of 100 ms"),
                at_most("freshness.p99", float(p99), "ms", P99_MS_MAX, "the limit of 200 ms"),
            ]


@dataclass
class _Sent:
    """When each event was sent, by the position that the broker gave it."""

    at: dict[tuple[int, int], float] = field(default_factory=dict)
    refused: list[KafkaError] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


def _send(producer: Producer, topic: str, numbers: range, sent: _Sent) -> None:
    """At an even pace; returns when the broker has all of them."""
    began = time.perf_counter()
    for place, number in enumerate(numbers):
        wait_s = began + place / A_SECOND - time.perf_counter()
        if wait_s > 0:
            producer.poll(wait_s)
        now = time.perf_counter()

        def on_delivery(error: KafkaError | None, message: Any, now: float = now) -> None:
            if error is not None:
                sent.refused.append(error)
            else:
                sent.at[message.partition(), message.offset()] = now

        value = value_of(number, format_instant(int(time.time() * 1000)))
        producer.produce(topic, value=value, key=key_of(number), on_delivery=on_delivery)
    producer.flush(_WITHIN_S)
    sent.done.set()


def _waits_ms(settings: Settings, producer: Producer, pipeline: Pipeline, first: int) -> Any:
    """Of each event. The fence passes an event in the very transaction that counts it, so the fence is what is looked at."""
    sent = _Sent()
    numbers = range(first, first + A_SECOND * SECONDS)
    sending = threading.Thread(target=_send, args=(producer, pipeline.topic, numbers, sent), daemon=True)
    seen: list[tuple[float, dict[int, int]]] = []
    with postgres.connect(settings, autocommit=True) as connection:
        sending.start()
        deadline = time.monotonic() + SECONDS + _WITHIN_S
        while time.monotonic() < deadline:
            fences = dict(connection.execute("SELECT partition, next_offset FROM delta_fences").fetchall())
            if not seen or fences != seen[-1][1]:
                seen.append((time.perf_counter(), fences))
            if sent.done.is_set() and all(fences[partition] > offset for partition, offset in sent.at):
                break
            time.sleep(_LOOK_EVERY_S)
    sending.join(_WITHIN_S)
    if sent.refused or len(sent.at) != len(numbers):
        raise RuntimeError(f"{len(sent.at)} of {len(numbers)} events were taken: {sent.refused[:1]}")
    return np.array([(_passed(seen, partition, offset) - at) * 1000 for (partition, offset), at in sent.at.items()])


def _passed(seen: list[tuple[float, dict[int, int]]], partition: int, offset: int) -> float:
    """When the fence was first seen behind the event."""
    low, high = 0, len(seen)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if seen[middle][1][partition] > offset else (middle + 1, high)
    if low == len(seen):
        raise RuntimeError(f"the event at {partition}/{offset} was not counted within {_WITHIN_S:g} s")
    return seen[low][0]
