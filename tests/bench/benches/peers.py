"""The same events through our consumer, through a fair plain loop, and through Faust event by event."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator, Sequence

from runtime.settings import Settings
from tests.bench.events import PARTITIONS, TOLD, consumed, publish
from tests.bench.figures import Figure, at_least
from tests.bench.place import ROOT, Place
from tests.fakes.pipeline import Pipeline, environment_of

EVENTS = 500_000
_OF_THE_LOOP = 40_000
_OF_FAUST = 20_000
_WITHIN_S = 240.0


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    while True:
        with place.corner(topic_partitions=PARTITIONS) as settings:
            place.say(f"publishing {EVENTS:,} events")
            publish(settings, settings.topic_events, EVENTS)
            with Pipeline(settings, place.folder) as pipeline:
                ours = consumed(pipeline, settings, place.say).per_second
            loop = _peer(settings, "loop", _OF_THE_LOOP)
            place.say(f"the plain loop: {loop:,.0f} events/s")
        with place.corner(topic_partitions=PARTITIONS) as settings:
            publish(settings, settings.topic_events, _OF_FAUST * 2)
            by_faust = _peer(settings, "faust", _OF_FAUST)
        yield [
            at_least("peers.loop", ours, "events/s", 4, loop, f"a plain loop over the same log, {loop:,.0f} events/s"),
            at_least("peers.faust", ours, "events/s", 10, by_faust, f"Faust event by event, {by_faust:,.0f} events/s"),
        ]


def _peer(settings: Settings, how: str, events: int) -> float:
    """Events a second."""
    command = [sys.executable, "-m", "tests.bench.peer", how, str(events)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment_of(settings), capture_output=True, text=True, timeout=_WITHIN_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{how} ended with {done.returncode}: {done.stderr[-2000:]}")
    (told,) = [line for line in done.stdout.splitlines() if line.startswith(TOLD)]
    return events / float(told.removeprefix(TOLD))
