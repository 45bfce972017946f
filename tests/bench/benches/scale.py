"""What an event costs the consumer as its index grows from 1 to 100 million keys, and what a second consumer brings.

Each size is measured over at least a minute of admissions by real consumer processes, the merges of the index included;
the log is read again, by another group, until the minute is full. Cost is processor time of the process, which a busy
machine distorts least.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from statistics import fmean

import numpy as np

from deploy.embedded.processes import Child
from metering.index import CommittedIndex
from runtime.settings import Settings
from tests.bench.events import PARTITIONS, Rate, consumed, publish
from tests.bench.figures import Figure, at_most, reported
from tests.bench.place import Place
from tests.bench.seeded import fill
from tests.fakes.pipeline import Pipeline

EVENTS = 1_000_000
ADMITTING_S = 60.0
SIZES = (1_000_000, 10_000_000, 100_000_000)
GROWTH_MAX = 1.25
_BATCH = 100_000
_ADMITTED_ALONE = 20_000_000


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    with place.corner(topic_partitions=PARTITIONS) as settings:
        place.say(f"publishing {EVENTS:,} events")
        publish(settings, settings.topic_events, EVENTS)
        for run in range(1_000):
            yield _run(place, settings, run)


def _run(place: Place, settings: Settings, run: int) -> list[Figure]:
    found: list[Figure] = []
    costs: list[float] = []
    alone: list[float] = []
    for size in SIZES:
        rates = _for_a_minute(place, settings, size, 1, f"{run}-{size}-1")
        costs.append(fmean(rate.cpu_us for rate in rates))
        alone.append(_alone(place, size))
        found.append(reported(f"scale.keys-{size // 1_000_000}m", costs[-1], "us/event", costs[0], "the cost at 1 million keys"))
        found.append(
            reported(f"scale.index-{size // 1_000_000}m", alone[-1], "us/event", costs[-1], "the whole cost of an event")
        )
        if size == SIZES[0]:
            one = fmean(rate.per_second for rate in rates)
    for size, smaller, larger in zip(SIZES[1:], costs, costs[1:], strict=False):
        name = f"scale.growth-{size // 1_000_000}m"
        found.append(at_most(name, larger / smaller, "times", GROWTH_MAX, "25 % more for ten times the keys"))
    two = fmean(rate.per_second for rate in _for_a_minute(place, settings, SIZES[0], 2, f"{run}-2"))
    found.append(reported("scale.processes-1", one, "events/s", one, "itself"))
    found.append(reported("scale.processes-2", two, "events/s", one, "one process, the servers on the same cores"))
    return found


def _for_a_minute(place: Place, settings: Settings, keys: int, processes: int, name: str) -> list[Rate]:
    rates: list[Rate] = []
    while sum(rate.seconds for rate in rates) < ADMITTING_S:
        # A group that has committed nothing starts at the fences, which nobody moves here.
        lap = settings.model_copy(update={"consumer_group": f"scale-{name}-{len(rates)}"})
        with Pipeline(lap, place.folder) as pipeline:

            def start(pipeline: Pipeline = pipeline) -> list[Child]:
                program = ("tests.bench.seeded", str(keys))
                return [pipeline.start("consume", program=program, consumer_instance=f"c{n}") for n in range(processes)]

            rates.append(consumed(pipeline, lap, lambda line: None, start))
        place.say(f"{keys:,} keys, {processes} processes: {rates[-1].per_second:,.0f}/s, {rates[-1].cpu_us:.2f} us an event")
    return rates


def _alone(place: Place, keys: int) -> float:
    """Microseconds of the index by itself: a look-up and an admission a key, merges included."""
    index = CommittedIndex()
    fill(keys, 0, index.add)
    index.settle()
    random = np.random.default_rng(99)
    spent = longest = 0.0
    # No more than what is there, or it would be another size.
    admitted = min(_ADMITTED_ALONE, keys)
    for _ in range(admitted // _BATCH):
        batch = random.integers(0, 2**64, _BATCH, dtype=np.uint64)
        began = time.thread_time()
        index.hits(batch)
        asked = time.thread_time()
        index.add(batch)
        ended = time.thread_time()
        spent += ended - began
        longest = max(longest, ended - asked)
    place.say(f"the index alone, {keys:,} keys: {spent / admitted * 1e9:.0f} ns an event, longest call {longest * 1e3:.0f} ms")
    return spent / admitted * 1e6
