"""A log of usage events for benches, the raw rate at which it can be read, and the consumer's rate over it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from confluent_kafka import Consumer, KafkaError, TopicPartition

from deploy.embedded.processes import Child
from meterline_schemas.instants import format_instant
from meterline_schemas.key import dedup_key
from runtime import kafka
from runtime.settings import Settings
from store import topic_state
from tests.fakes.pipeline import Pipeline

PARTITIONS = 8
CONSUME_MAX = 10_000
TOLD = "seconds: "
"""Begins the line in which a peer tells how long it took: Faust draws a spinner into the same output."""
_TENANTS, _TYPES = 50, 5
_HEADERS: list[tuple[str, str | bytes | None]] = [("schema-version", b"1")]
_WITHIN_S = 300.0


def value_of(number: int, at: str) -> bytes:
    """An event of some 290 bytes, its identity given by its number."""
    return (
        f'{{"tenantId":"tnt_{number % _TENANTS:05d}","sourceService":"analysis-worker","sourceEntityId":"job_{number:010d}",'
        f'"usageType":"PHOTO_ANALYSIS_{number % _TYPES}","quantity":"{number % 1000}.{number % 100:02d}","occurredAt":"{at}",'
        '"kind":"usage","metadata":{"model":"deep-7","region":"eu-west-1","attempt":1,"note":"as long as such notes are"}}'
    ).encode()


def key_of(number: int) -> bytes:
    return dedup_key("analysis-worker", f"job_{number:010d}", f"PHOTO_ANALYSIS_{number % _TYPES}")


def numbers(count: int, repeated: float, seed: int = 1) -> Iterator[int]:
    """So many identities; a share of them, spread evenly, are earlier ones again."""
    random, fresh = Random(seed), 0
    for _ in range(count):
        if fresh and random.random() < repeated:
            yield int(random.random() * fresh)
        else:
            yield fresh
            fresh += 1


def publish(settings: Settings, topic: str, count: int, repeated: float = 0.0) -> None:
    """Writes the log; returns when the broker has it. A repeated event has the very bytes of the first."""
    producer = kafka.producer(settings, **{"queue.buffering.max.messages": 1_000_000, "linger.ms": 20})
    at = format_instant(int(time.time() * 1000))
    refused: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: object) -> None:
        if error is not None:
            refused.append(error)

    for place, number in enumerate(numbers(count, repeated)):
        if place % 10_000 == 0:
            producer.poll(0)
        while True:
            try:
                producer.produce(topic, value=value_of(number, at), key=key_of(number), headers=_HEADERS, on_delivery=on_delivery)
                break
            except BufferError:
                producer.poll(0.1)
    left = producer.flush(_WITHIN_S)
    if left or refused:
        raise RuntimeError(f"{left + len(refused)} events were not taken: {refused[:1]}")


@dataclass(frozen=True)
class Rate:
    """Of records over the clock, and what they cost the process."""

    records: int
    seconds: float
    cpu_us: float
    """A record, all threads of the reading process."""

    @property
    def per_second(self) -> float:
        return self.records / self.seconds


def drain(settings: Settings, topic: str) -> Rate:
    """Reads the whole log and does nothing with it, with the consumer's own client settings."""
    reader: Consumer = kafka.consumer(settings, **{"group.id": "bench-drain", "queued.max.messages.kbytes": 16_384})
    reader.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    ended: set[int | None] = set()
    records, began, cpu_began = 0, 0.0, 0.0
    while len(ended) < PARTITIONS:
        messages = reader.consume(CONSUME_MAX, 1.0)
        if not began and messages:  # what a connection takes is not reading
            began, cpu_began = time.perf_counter(), time.process_time()
            continue
        records += len(messages)
        if len(messages) < CONSUME_MAX:
            ended |= {message.partition() for message in messages if message.error() is not None}
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    reader.close()
    return Rate(records, seconds, cpu_s / records * 1e6)


def consumed(
    pipeline: Pipeline, settings: Settings, say: Callable[[str], None], start: Callable[[], Sequence[Child]] | None = None
) -> Rate:
    """The rate of a consumer process over the log, or of those that `start` starts: from the first commit to the last."""
    ends = sum(topic_state.log_ends(kafka.admin(settings), pipeline.topic, pipeline.partitions))
    children = start() if start is not None else [pipeline.consume()]
    first_at, first, first_cpu_s = 0.0, 0, 0.0
    deadline = time.monotonic() + _WITHIN_S
    while True:
        done, now, cpu_s = sum(pipeline.committed().values()), time.perf_counter(), sum(map(cpu_seconds, children))
        if done and not first:
            first_at, first, first_cpu_s = now, done, cpu_s
        if done == ends:
            break
        if time.monotonic() > deadline or any(child.poll() is not None for child in children):
            said = "; ".join(child.tail() for child in children)
            raise RuntimeError(f"{done} of {ends} records are committed; the consumer says: {said}")
        time.sleep(0.02)
    say(f"{ends - first:,} records after the first {first:,}")
    return Rate(ends - first, now - first_at, (cpu_s - first_cpu_s) / (ends - first) * 1e6)


def cpu_seconds(child: Child) -> float:
    """Of a process, all its threads, in user and system mode."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(child: Child, what: str = "VmHWM") -> float:
    """The most that a process ever held in memory; `VmRSS` for now."""
    for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{child.name} has no {what}")
