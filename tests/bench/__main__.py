"""`./run bench [NAME...]`: runs benches and shows the medians of their figures."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import FrameType

from tests.bench import record, registry
from tests.bench.figures import Figure, medians
from tests.bench.place import Place
from tests.bench.registry import Measure

RECORDED_RUNS_MIN = 3


def main(arguments: Sequence[str], benches: Mapping[str, Callable[[], Measure]]) -> int:
    """Returns the exit status: 0, or 1 when a bench could not run (with --strict: or missed a target)."""
    asked = _parsed(arguments, benches)
    chosen = asked.names or list(benches)
    found: dict[str, list[Figure]] = {}
    servers: dict[str, dict[str, str]] = {}
    load = record.load_before()
    for name in chosen:
        try:
            with Place(name) as place:
                found[name] = _measured(place, benches[name](), asked.runs)
                servers[name] = place.versions()
        except Exception:  # noqa: BLE001 - whatever it was, it is shown, the other benches run, and the status says so
            traceback.print_exc()
            sys.stderr.write(f"{name} could not run\n")
    if asked.record and found:
        record.write(found, asked.runs, load, servers)
        sys.stderr.write(f"recorded {', '.join(found)} in {record.RESULTS.name} and {record.PAGE.name}\n")
    figures = [figure for name in found for figure in found[name]]
    if asked.json:
        sys.stdout.write(json.dumps({"benches": [figure.as_row() for figure in figures]}) + "\n")
    else:
        sys.stdout.write(f"{record.table(figures)}\nMedians of {asked.runs} runs. A figure is met where ratio >= target.\n")
    missed = [figure.name for figure in figures if not figure.met]
    return 1 if len(found) < len(chosen) or (asked.strict and missed) else 0


def _parsed(arguments: Sequence[str], benches: Mapping[str, object]) -> argparse.Namespace:
    """Leaves with status 2, and the reason on standard error, where the call is wrong."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (all): {', '.join(benches)}")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON instead of the table")
    parser.add_argument("--runs", type=int, default=RECORDED_RUNS_MIN, help="runs of each bench, of which medians are shown (3)")
    parser.add_argument("--strict", action="store_true", help="leave with 1 when a figure misses its target")
    parser.add_argument("--record", action="store_true", help="write the figures to docs/benchmarks.json and .md")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in benches]:
        parser.error(f"no bench {', '.join(unknown)}; there are {', '.join(benches)}")
    if asked.runs < (RECORDED_RUNS_MIN if asked.record else 1):
        parser.error(f"--runs {asked.runs}: at least 1, and {RECORDED_RUNS_MIN} for a record")
    return asked


def _measured(place: Place, measure: Measure, runs: int) -> list[Figure]:
    """The medians of a bench. Raises what the bench raises, or ValueError where it gave too few or wrongly named figures."""
    taken: list[Sequence[Figure]] = []
    with closing(measure(place)) as rounds:
        for figures in rounds:
            taken.append(figures)
            shown = ", ".join(f"{figure.name} {figure.value:,.4g} {figure.unit} ({figure.ratio:.3g})" for figure in figures)
            place.say(f"run {len(taken)} of {runs}: {shown}")
            if len(taken) == runs:
                break
    if len(taken) < runs:
        raise ValueError(f"{place.name} ended after {len(taken)} of {runs} runs")
    if strangers := [one.name for one in taken[0] if one.name.partition(".")[0] != place.name]:
        raise ValueError(f"{', '.join(strangers)}: a figure's name begins with its bench's, {place.name}")
    return medians(taken)


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)  # so that servers and folders are removed
    sys.exit(main(sys.argv[1:], {name: partial(registry.load, name) for name in registry.names()}))
