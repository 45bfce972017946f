"""T1 of closes: bills add up to what was used, and a closed period never changes."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation import closing_mutants
from tests.simulation.closing_world import ClosingWorld
from tests.simulation.violation import Violation

SEEDS = 400
_SEEDS_A_MUTANT_MAX = 400


def run(seed: int) -> Violation | None:
    """One schedule; what it broke."""
    try:
        ClosingWorld(seed).run()
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


def test_no_schedule_bills_anything_twice_or_never() -> None:
    found = first_violation(range(SEEDS))
    assert found is None, f"seed {found[0]}: {found[1]}"


@pytest.mark.parametrize("name", closing_mutants.MUTANTS)
def test_a_rule_of_closes_that_is_left_out_is_found_missing(name: str) -> None:
    with closing_mutants.MUTANTS[name]():
        found = first_violation(range(_SEEDS_A_MUTANT_MAX))
    assert found is not None, f"{_SEEDS_A_MUTANT_MAX} schedules did not find the bug {name}"


def test_schedules_of_closes_reach_the_states_that_they_are_for() -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        world = ClosingWorld(seed)
        world.run()
        seen["several closes"] += len(world.closed) > 2
        seen["several revisions"] += any(one.number > 2 for one in world.ledger)
        seen["late events"] += any(
            one.day < close.period.end and at >= close.positions["1:0"]
            for close in world.closed.values()
            for at, one in enumerate(world.log)
        )
    assert {name: seen[name] for name in ("several closes", "several revisions", "late events") if seen[name] < 10} == {}
