"""T1: whatever the schedule, the stores at rest hold what a dict of first records says."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from tests.simulation import mutants, seams
from tests.simulation.schedules import first_violation, run
from tests.simulation.world import World

SEEDS = 8_000
_A_TEST = 2_000
_SEEDS_A_MUTANT_MAX = 6_000


@pytest.fixture(autouse=True)
def _driven() -> Iterator[None]:
    with seams.driven():
        yield


@pytest.mark.parametrize("first", range(0, SEEDS, _A_TEST))
def test_no_schedule_changes_a_number(first: int) -> None:
    found = first_violation(range(first, first + _A_TEST))
    assert found is None, f"{found}; replay: python -m tests.simulation --seed {found[0]} -v"


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_a_sentence_of_the_proof_that_is_left_out_is_found_missing(name: str) -> None:
    with mutants.applied(name):
        found = first_violation(range(_SEEDS_A_MUTANT_MAX))
    assert found is not None, f"{_SEEDS_A_MUTANT_MAX} schedules did not find the bug {name}"


def test_schedules_reach_the_states_that_they_are_for() -> None:
    """A simulation that never gets into trouble proves nothing."""
    said: Counter[str] = Counter()

    def hear(world: World, what: str, member: int | None) -> None:
        for event in _EVENTS:
            said[event] += event in what

    with patch.object(World, "say", hear):
        for seed in range(600):
            run(seed)
    assert {event: said[event] for event in _EVENTS if said[event] < 10} == {}


_EVENTS = (
    "killed",
    "insert",
    "insert (late)",
    "a late insert lands",
    "a late announce lands",
    "a late commit lands",
    "commit is refused",
    "fail",
    "cannot take partitions",
    "a read lags behind",
    "this build knows",
    "a delta is lost",
    "a delta lacks a line",
    "counting failed: aggregator.before_commit",
    "counting failed: aggregator.after_commit",
    "counting failed: a delta could not be counted",
    "repaired",
    "recomputed",
    "a lowered offset is put right",
    "rules 2 from",
    "the group's offset",
    "notices",
    "epoch 1 ends",
    "takes up epoch 2",
    "log of epoch 1 ends",
    "forwarded",
    "forwarding dies",
)


def test_a_seed_replays_the_same_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    run(8, verbose=True)
    first = capsys.readouterr().out
    run(9)
    run(8, verbose=True)
    assert capsys.readouterr().out == first
    assert len(first.splitlines()) > 50


def test_one_command_replays_a_failing_seed() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "0..20", "--mutant", "no_fence"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    replay = found.stdout.splitlines()[-1]
    assert replay.startswith("replay: python -m tests.simulation --seed ")
    arguments = replay.removeprefix("replay: python ").split()
    again = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 1
    assert " decided " in again.stdout
