"""T4, short: five mutants must be caught, every patch must fit, and a mutant that nobody catches is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.catalog import MUTANTS
from tests.mutants.copied import ROOT, apply, copied
from tests.mutants.hunting import Hunt
from tests.mutants.patch import Catcher, Mutant, PatchDoesNotFit, Replace

FAST = [mutant for mutant in MUTANTS if mutant.fast]


def test_five_mutants_are_fast_enough_for_every_run() -> None:
    assert len(FAST) == 5
    assert {mutant.catcher.tier for mutant in FAST} == {"T1"}


@pytest.mark.parametrize("mutant", FAST, ids=lambda mutant: mutant.name)
def test_a_bug_in_a_copy_of_the_code_is_caught(mutant: Mutant) -> None:
    # That the same schedules pass on the code as it is: test_schedules.
    told: list[str] = []
    assert Hunt(told.append, sound=[mutant.catcher]).caught_by(mutant) is not None, told


def test_every_mutant_still_fits_the_code(tmp_path: Path) -> None:
    paths = {patch.path for mutant in MUTANTS for patch in mutant.patches}
    for mutant in MUTANTS:
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes((ROOT / path).read_bytes())
        apply(mutant, tmp_path)
        patched = {patch.path for patch in mutant.patches}
        assert {path for path in paths if (tmp_path / path).read_bytes() != (ROOT / path).read_bytes()} == patched


def test_names_are_unique_and_each_says_what_it_leaves_out() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.means and mutant.patches for mutant in MUTANTS)


def test_a_change_that_no_test_notices_is_told_as_not_caught() -> None:
    harmless = Replace("metering/fence.py", '"""What the aggregator does', '"""What an aggregator does')
    told: list[str] = []
    catcher = Catcher("T1", ("tests.simulation", "--seeds", "0..3"))
    assert Hunt(told.append).caught_by(Mutant("harmless", "nothing", (harmless,), catcher)) is None
    assert "harmless: NOT CAUGHT" in told[-1]


def test_a_test_that_fails_anyway_catches_nothing() -> None:
    catcher = Catcher("T1", ("tests.simulation", "--seeds", "0..200", "--mutant", "no_fence"))
    told: list[str] = []
    assert Hunt(told.append).caught_by(Mutant("any", "anything", FAST[0].patches, catcher)) is None
    assert "on the code as it is" in told[-1]


def test_a_mutant_that_is_no_program_or_fits_nowhere_is_refused() -> None:
    with copied() as tree:
        for old, new in (("not in there", ""), ("return FenceAction.SKIP", "return nowhere")):
            with pytest.raises(PatchDoesNotFit):
                apply(Mutant("bad", "", (Replace("metering/fence.py", old, new),), FAST[0].catcher), tree)
