"""The limit: the raw rate of `Consumer.consume` over the same log, with our tuned client, nothing done."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from tests.bench.events import PARTITIONS, drain, publish
from tests.bench.figures import Figure, reported
from tests.bench.place import Place

EVENTS = 1_000_000


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    with place.corner(topic_partitions=PARTITIONS) as settings:
        place.say(f"publishing {EVENTS:,} events")
        publish(settings, settings.topic_events, EVENTS)
        while True:
            rate = drain(settings, settings.topic_events)
            yield [
                reported("drain", rate.per_second, "events/s", rate.per_second, "itself"),
                reported("drain.cpu", rate.cpu_us, "us/event", rate.cpu_us, "itself"),
            ]
