"""`./run chaos --minutes N --seed S [--json]`.

Real servers and processes of its own, faults drawn from the seed, then I1 to I7 checked. The last line is one of JSON;
progress goes to standard error. Leaves with 1 when any number is wrong.
"""

# ruff: noqa: T201 - a command of its own
from __future__ import annotations

import argparse
import json
import random
import sys

from runtime.exits import Exit, MeterlineExit
from tests.chaos.run import ChaosRun, Order


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0.1 <= minutes <= 1_440:
        raise ValueError("want 0.1 to 1440")
    return minutes


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=_minutes, default=2.0, help="how long faults go on (default 2)")
    parser.add_argument("--seed", type=int, help="draws faults and traffic; without one, any")
    parser.add_argument("--rate", type=float, default=400.0, help="records a second, of all producers (default 400)")
    parser.add_argument("--producers", type=int, default=3, choices=range(1, 9), metavar="1..8", help="processes (default 3)")
    parser.add_argument("--json", action="store_true", help="nothing but the last line on standard output")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if asked.seed is None else asked.seed
    _tell(f"seed {seed}")
    chaos = ChaosRun(Order(asked.minutes, seed, asked.rate, asked.producers), _tell)
    try:
        figures = chaos.run()
    except (MeterlineExit, TimeoutError) as error:
        _tell(f"the run could not be ended: {error}; data and logs are kept in {chaos.folder}")
        return Exit.FAILED
    if not asked.json:
        for name, value in figures.items():
            print(f"{name:15} {value}")
    print(json.dumps(figures, separators=(",", ":")))
    return Exit.OK if figures["ok"] else Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
