"""The whole consumer process against the raw rate at which the same log can be read, and what duplicates cost it."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from tests.bench.events import PARTITIONS, Rate, consumed, drain, publish
from tests.bench.figures import Figure, at_least, reported
from tests.bench.place import Place
from tests.fakes.pipeline import Pipeline

EVENTS = 1_000_000
REPEATED = 0.1


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    while True:
        raw, plain = _over(place, 0.0)
        _, repeated = _over(place, REPEATED)
        yield [
            at_least("consume", plain.per_second, "events/s", 0.20, raw.per_second, "the raw drain of the same log"),
            at_least(
                "consume.duplicates", repeated.per_second, "events/s", 0.9, plain.per_second, "the same without 10 % duplicates"
            ),
            reported("consume.raw", raw.per_second, "events/s", raw.per_second, "itself"),
            reported("consume.cpu", plain.cpu_us, "us/event", raw.cpu_us, "the raw drain's processor time"),
        ]


def _over(place: Place, repeated: float) -> tuple[Rate, Rate]:
    with place.corner(topic_partitions=PARTITIONS) as settings:
        place.say(f"publishing {EVENTS:,} events, {repeated:.0%} of them twice")
        publish(settings, settings.topic_events, EVENTS, repeated)
        raw = drain(settings, settings.topic_events)
        with Pipeline(settings, place.folder) as pipeline:
            return raw, consumed(pipeline, settings, place.say)
