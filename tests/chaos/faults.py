"""What is done to the machine: drawn from the seed, one after the other, each lifted before it counts as over."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.machine import AGGREGATOR, CONSUMERS, LINES, SERVERS, Machine

KINDS = ("kill", "stop", "cut", "server")
_POINTS = {
    "consumer": tuple(
        f"consumer.{point}" for point in ("decided", "inserting", "stored", "announcing", "announced", "committed")
    ),
    "aggregator": ("aggregator.before_commit", "aggregator.after_commit"),
}
_CRASH_WITHIN_S = 15.0
_TICK_S = 0.1


@dataclass(frozen=True)
class Fault:
    """`what` is for the log; `apply` blocks until it is lifted, and calls the tick all the while."""

    kind: str
    what: str
    apply: Callable[[Machine, Callable[[], None]], None]


def draw(dice: random.Random, stop_s_max: float) -> Fault:
    """The next fault. Session timeouts are 6 s, so that most of the stopped ones come back as zombies."""
    kind = dice.choices(KINDS, (5, 2, 3, 1))[0]
    if kind == "kill":
        return _kill(dice)
    if kind == "stop":
        return _stop(dice, stop_s_max)
    return _cut(dice) if kind == "cut" else _server(dice)


def _pause(seconds: float, tick: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        tick()
        time.sleep(_TICK_S)


def _kill(dice: random.Random) -> Fault:
    name = dice.choice((*CONSUMERS, *CONSUMERS, AGGREGATOR, AGGREGATOR, "producer-0"))
    points = _POINTS.get(name.partition("-")[0])
    if points is None or dice.random() < 0.3:
        return Fault("kill", f"kill -9 of {name}", lambda machine, tick: machine.kill(name))
    crash_at = f"{dice.choice(points)}:{dice.randrange(1, 12)}"

    def crash(machine: Machine, tick: Callable[[], None]) -> None:
        machine.kill(name)
        machine.start(name, crash_at)
        child = machine.parts[name].child
        assert child is not None
        until = time.monotonic() + _CRASH_WITHIN_S
        while child.poll() is None and time.monotonic() < until:
            tick()
            time.sleep(_TICK_S)
        machine.kill(name)  # where the point was not passed so often, a consumer without partitions say

    return Fault("kill", f"kill -9 of {name}, then at {crash_at}", crash)


def _stop(dice: random.Random, stop_s_max: float) -> Fault:
    name = dice.choice((*CONSUMERS, AGGREGATOR))
    seconds = dice.uniform(3.0, stop_s_max)

    def stop(machine: Machine, tick: Callable[[], None]) -> None:
        machine.freeze(name, True)
        try:
            _pause(seconds, tick)
        finally:
            machine.freeze(name, False)

    return Fault("stop", f"SIGSTOP of {name} for {seconds:.1f} s", stop)


def _cut(dice: random.Random) -> Fault:
    line = dice.choice(LINES)
    seconds, how = dice.uniform(0.2, 6.0), dice.choice(("cut", "cut in the middle", "swallow"))
    sent_bytes = dice.randrange(100, 60_000)

    def cut(machine: Machine, tick: Callable[[], None]) -> None:
        proxy = machine.proxies[line]
        if how == "cut":
            proxy.cut()
        elif how == "swallow":
            proxy.stall()
        else:
            proxy.cut_after(sent_bytes)
        try:
            _pause(seconds, tick)
        finally:
            proxy.restore()

    return Fault("cut", f"{how} {' to '.join(line)} for {seconds:.1f} s", cut)


def _server(dice: random.Random) -> Fault:
    name = dice.choice(SERVERS)
    return Fault("server", f"kill -9 of {name} and its restart", lambda machine, tick: machine.restart_server(name))


def counted(faults: Counter[str]) -> dict[str, int]:
    return {kind: faults[kind] for kind in KINDS}
