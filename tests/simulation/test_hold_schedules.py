"""T1 of holds: settled work is counted or held at every moment, and nothing is granted beyond the limit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from unittest.mock import patch

import pytest

import entitlements.relay
from tests.simulation import hold_mutants
from tests.simulation.hold_broker import nothing_waits
from tests.simulation.hold_world import HoldWorld
from tests.simulation.violation import Crash, Violation

SEEDS = 600
_SEEDS_A_MUTANT_MAX = 1_000


@pytest.fixture(autouse=True)
def _driven() -> Iterator[None]:
    """The relay's database and crash point are the running schedule's."""
    table = SimpleNamespace(
        claim=lambda connection, topic, rows_max: connection.world.claim(connection, topic, rows_max),
        acknowledged=lambda connection, positions: connection.world.note(connection, positions),
        backlog=nothing_waits,
    )
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(entitlements.relay, outbox=table, crash_point=_crash_point))
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, disabled)
        yield


_running: list[HoldWorld] = []


def _crash_point(name: str) -> None:
    world = _running[-1]
    if not world.calm and world.random.random() < 0.15:
        raise Crash(name)


def run(seed: int, verbose: bool = False) -> Violation | None:
    """One schedule; what it broke."""
    _running[:] = [HoldWorld(seed, verbose)]
    try:
        _running[0].run()
    except Violation as violation:
        return violation
    return None


def first_violation(seeds: range) -> tuple[int, Violation] | None:
    """The first seed that breaks something."""
    for seed in seeds:
        violation = run(seed)
        if violation is not None:
            return seed, violation
    return None


def test_no_schedule_loses_or_oversells() -> None:
    found = first_violation(range(SEEDS))
    assert found is None, f"seed {found[0]}: {found[1]}"


@pytest.mark.parametrize("name", hold_mutants.MUTANTS)
def test_a_rule_of_holds_that_is_left_out_is_found_missing(name: str) -> None:
    with hold_mutants.MUTANTS[name]():
        found = first_violation(range(_SEEDS_A_MUTANT_MAX))
    assert found is not None, f"{_SEEDS_A_MUTANT_MAX} schedules did not find the bug {name}"


def test_schedules_of_holds_reach_the_states_that_they_are_for() -> None:
    said: Counter[str] = Counter()

    def hear(world: HoldWorld, what: str) -> None:
        for event in _EVENTS:
            said[event] += event in what

    past_end = Counter[bool]()
    with patch.object(HoldWorld, "say", hear):
        for seed in range(300):
            run(seed)
            world = _running[0]
            past_end[any(len(world.log[1, p]) > end for p, end in enumerate(world.ends[1] or ()))] += 1
            copies = Counter(hold_id for log in world.log.values() for hold_id in log)
            said["published twice"] += any(count > 1 for count in copies.values())
    assert {event: said[event] for event in (*_EVENTS, "published twice") if said[event] < 10} == {}
    assert past_end[True] >= 5


_EVENTS = (
    "hold ",
    "settled ",
    " late",
    "already_settled",
    "already_released",
    "it is settled",
    "killed: relay.acked",
    "killed: before its commit",
    "epoch 1 ends",
    "stands at (2,",
    "counted 2/",
)
