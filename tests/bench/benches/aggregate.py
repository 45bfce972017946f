"""Delta records to Postgres by the aggregator process, in events, against the consumer's rate in the same run."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from random import Random

from confluent_kafka import KafkaError

from meterline_schemas.delta import Delta, DeltaLine, Figures, encode_delta
from meterline_schemas.types import Epoch, Micros, Offset, Partition, TenantId, UsageType
from runtime import kafka, postgres
from runtime.settings import Settings
from store.fences import add_lines
from tests.bench.events import PARTITIONS, consumed, publish
from tests.bench.figures import Figure, at_least, reported
from tests.bench.place import Place
from tests.fakes.pipeline import Pipeline

EVENTS = 500_000
KEYS_A_RECORD = 1_000
RANGE_EVENTS = 12_500
"""Of one record: a consumer's full cycle of 100,000, spread over the partitions."""
RECORDS = 1_000
LIVE_COUNTERS = 500_000
LINES_A_RECORD = 8_000
"""What fits a record of 512 KiB where nearly each event is a counter of its own."""
RECORDS_OF_THE_MANY = 768
"""A backlog of some batches, so that their beginning and end weigh little."""
_TYPES = 5
_DAY = "2026-11-21"
_HEADERS: list[tuple[str, str | bytes | None]] = [("schema-version", b"1")]
_WITHIN_S = 300.0


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    while True:
        with place.corner(topic_partitions=PARTITIONS) as settings:
            publish(settings, settings.topic_events, EVENTS)
            with Pipeline(settings, place.folder) as pipeline:
                consumer = consumed(pipeline, settings, place.say).per_second
        few = _rate(place, RECORDS, KEYS_A_RECORD, RANGE_EVENTS, 20_000)
        many = _rate(place, RECORDS_OF_THE_MANY, LINES_A_RECORD, LINES_A_RECORD, LIVE_COUNTERS)
        yield [
            at_least("aggregate", few * RANGE_EVENTS, "events/s", 4, consumer, "the consumer's rate"),
            reported("aggregate.records", few, "records/s", 385, "385 records/s of a prototype, 16 a transaction"),
            at_least("aggregate.counters-500k", many * LINES_A_RECORD, "events/s", 1, consumer, "the consumer's rate"),
            reported("aggregate.consumer", consumer, "events/s", consumer, "itself"),
        ]


def _rate(place: Place, records: int, keys: int, events: int, counters: int) -> float:
    """Records a second, from the first that is counted to the last; every counter stands before."""
    with place.corner(topic_partitions=PARTITIONS, postgres_timeout_s=60.0) as settings:
        place.say(f"{counters:,} counters, {records:,} records of {keys:,} keys")
        _publish(settings, _deltas(records, keys, events, counters))
        with postgres.connect(settings) as connection:
            add_lines(connection, [_line(number, 1) for number in range(counters)])
        with postgres.connect(settings, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE usage_counters, usage_totals")
        with Pipeline(settings, place.folder) as pipeline, postgres.connect(settings, autocommit=True) as connection:
            child = pipeline.aggregate()
            first_at, first, deadline = 0.0, 0, time.monotonic() + _WITHIN_S
            while True:
                ((done,),) = connection.execute("SELECT sum(next_offset) / %s FROM delta_fences", (events,)).fetchall()
                now = time.perf_counter()
                if done and not first:
                    first_at, first = now, int(done)
                if done == records:
                    return (records - first) / (now - first_at)
                if time.monotonic() > deadline or child.poll() is not None:
                    raise RuntimeError(f"{done} of {records} records are counted; the aggregator says: {child.tail()}")
                time.sleep(0.01)


def _line(number: int, events: int) -> DeltaLine:
    tenant, usage_type = divmod(number, _TYPES)
    return DeltaLine(TenantId(f"tnt_{tenant:06d}"), UsageType(f"PHOTO_{usage_type}"), _DAY, Micros(1_500_000 * events), events)


def _deltas(records: int, keys: int, events: int, counters: int) -> Iterator[Delta]:
    """A chain of ranges on each partition, their keys drawn from all counters."""
    random, ends = Random(5), [0] * PARTITIONS
    for number in range(records):
        partition = number % PARTITIONS
        chosen = sorted(random.sample(range(counters), keys))
        rest = events - keys * (events // keys)
        lines = tuple(_line(one, events // keys + (place < rest)) for place, one in enumerate(chosen))
        start, ends[partition] = ends[partition], ends[partition] + events
        figures = Figures(admitted=ends[partition])
        yield Delta(Epoch(1), Partition(partition), Offset(start), Offset(ends[partition]), 1, lines, figures)


def _publish(settings: Settings, deltas: Iterator[Delta]) -> None:
    producer = kafka.producer(settings)
    refused: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _: object) -> None:
        if error is not None:
            refused.append(error)

    for delta in deltas:
        value = encode_delta(delta)
        producer.produce(settings.topic_deltas, value=value, partition=delta.partition, headers=_HEADERS, on_delivery=on_delivery)
        producer.poll(0)
    if producer.flush(_WITHIN_S) or refused:
        raise RuntimeError(f"the records were not taken: {refused[:1]}")
