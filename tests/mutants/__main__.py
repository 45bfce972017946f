"""`./run mutants [NAME...] [--json]`: breaks the code in a copy, one sentence of the proof at a time.

A mutant is caught when its test passes on the code as it is and fails on the mutant. The last line is one of JSON; leaves
with 1 when a mutant was not caught.
"""

# ruff: noqa: T201 - a command of its own
from __future__ import annotations

import argparse
import json
import sys

from runtime.exits import Exit
from tests.mutants.catalog import MUTANTS
from tests.mutants.hunting import Hunt


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    known = {mutant.name: mutant for mutant in MUTANTS}
    parser = argparse.ArgumentParser(prog="./run mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}; none: all")
    parser.add_argument("--fast", action="store_true", help="those that every test run applies")
    parser.add_argument("--json", action="store_true", help="nothing but the last line on standard output")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(known):
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [m for m in MUTANTS if (not asked.names or m.name in asked.names) and (m.fast or not asked.fast)]
    hunt = Hunt(_tell)
    found = [{"name": mutant.name, "caught_by": hunt.caught_by(mutant)} for mutant in chosen]
    if not asked.json:
        for one in found:
            print(f"{one['name']:42} {one['caught_by'] or 'NOT CAUGHT'}")
    print(json.dumps({"mutants": found}, separators=(",", ":")))
    return Exit.OK if all(one["caught_by"] for one in found) else Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
