"""`python -m tests.simulation --seed N -v` replays one schedule, `--seeds A..B` runs many and says how fast.

`--mutants` says of each deliberate bug which seed finds it first, and in how many of a thousand.
"""

# ruff: noqa: T201 - a command of its own
from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation import mutants, seams
from tests.simulation.schedules import run

_A_MUTANT = 1000


def _range(text: str) -> range:
    first, _, last = text.partition("..")
    found = range(int(first), int(last))
    if not found:
        raise ValueError("no seed in it")
    return found


def _all_mutants() -> int:
    missed = 0
    with seams.driven():
        for name in mutants.MUTANTS:
            with mutants.applied(name):
                found = [(seed, violation.invariant) for seed in range(_A_MUTANT) if (violation := run(seed))]
            names = ",".join(sorted({invariant for _, invariant in found}))
            first = f"first seed {found[0][0]:4d}" if found else "NOT CAUGHT"
            print(f"{name:36s} {first}  {len(found):4d} of {_A_MUTANT}  {names}")
            missed += not found
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one schedule; -v prints it")
    which.add_argument("--seeds", type=_range, metavar="A..B", help="all from A up to, not including, B")
    which.add_argument("--mutants", action="store_true", help="every deliberate bug, and the seeds that find it")
    parser.add_argument("--first", action="store_true", help="stop at the first violation")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="with a deliberate bug")
    asked = parser.parse_args()
    if asked.mutants:
        return _all_mutants()
    seeds = asked.seeds if asked.seed is None else range(asked.seed, asked.seed + 1)

    failed = []
    with seams.driven(), mutants.applied(asked.mutant):
        began = time.process_time()
        for seed in seeds:
            violation = run(seed, asked.verbose)
            if violation is not None:
                failed.append(seed)
                if len(failed) <= 5:
                    print(f"seed {seed}: {violation}")
                    if asked.verbose and violation.__cause__ is not None:
                        traceback.print_exception(violation.__cause__)
                if asked.first:
                    break
        took = time.process_time() - began
    ran = seeds.index(seed) + 1
    print(f"{ran} schedules, {len(failed)} with a violation, {ran / took * 60:.0f} a minute of one core")
    if failed:
        mutant = f" --mutant {asked.mutant}" if asked.mutant else ""
        print(f"replay: python -m tests.simulation --seed {failed[0]} -v{mutant}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
