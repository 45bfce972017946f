"""`./run export-chaos [--tenants N] [--kills N] [--seed S]`.

The exporter against a local Stripe in which every fault is on at 5 %: killed at each named point and at random moments, two at
once, a day's outage in the middle. When the faults are over every total at Stripe has to be ClickHouse's. The last line is one
of JSON; progress goes to standard error. Leaves with 1 when a number is wrong.
"""

# ruff: noqa: T201 - a command of its own
from __future__ import annotations

import argparse
import json
import random
import sys
import time

from runtime.exits import Exit
from tests.bench.place import Place
from tests.chaos.exports.run import ExportChaos, Order
from tests.fakes.local_stripe_server import LocalStripeServer


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./run export-chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tenants", type=int, default=2_000, help="with three meters each (default 2000)")
    parser.add_argument("--kills", type=int, default=50, help="at random moments (default 50)")
    parser.add_argument("--seed", type=int, help="draws usage, faults and moments; without one, any")
    asked = parser.parse_args()
    if not (1 <= asked.tenants <= 100_000 and 0 <= asked.kills <= 10_000):
        parser.error("want 1 to 100000 tenants and at most 10000 kills")
    seed = random.SystemRandom().randrange(1 << 31) if asked.seed is None else asked.seed
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", file=sys.stderr, flush=True)

    say(f"seed {seed}")
    with Place("export-chaos") as place, place.corner() as settings, LocalStripeServer(place.folder / "stripe") as stripe:
        figures = ExportChaos(settings, stripe, Order(asked.tenants, asked.kills, seed), say).run()
    print(json.dumps(figures, separators=(",", ":")))
    return Exit.OK if figures["ok"] else Exit.FAILED


if __name__ == "__main__":
    sys.exit(main())
