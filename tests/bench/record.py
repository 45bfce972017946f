"""What was measured, where and when: `docs/benchmarks.json`, and the page made of it."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import registry
from tests.bench.figures import Figure

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS / "benchmarks.json"
PAGE = DOCS / "benchmarks.md"

_LIBRARIES = ("confluent-kafka", "faust-streaming", "clickhouse-connect", "chdb", "psycopg", "numpy", "pyarrow", "msgspec")
_HEADINGS = ("figure", "value", "ratio", "against", "target", "met")
_INTRODUCTION = """# Benchmarks

Generated from [benchmarks.json](benchmarks.json) by `./run bench --record`; a test holds the two equal.

A ratio is how many times as good as what it is held against: more where more is better, limit through value where less is
better. A figure is met where ratio >= target. What it is held against was measured in the same run, on the same cores as the
servers, or is a limit that the design states. Figures are medians; in brackets the least and the greatest of the runs.
"""


def table(figures: Sequence[Figure]) -> str:
    """For a terminal."""
    rows = [_HEADINGS, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def load_before() -> float:
    """How busy the machine is with other work: processes that want a core, over the last minute."""
    return round(os.getloadavg()[0], 2)


def write(found: Mapping[str, Sequence[Figure]], runs: int, load: float, servers: Mapping[str, dict[str, str]]) -> None:
    """Puts these benches into the file, leaves the others as they are, and makes the page anew.

    `servers` are the versions that the servers of each bench reported, by bench.
    """
    results = read()
    for name, figures in found.items():
        results[name] = {
            "date": datetime.now(UTC).date().isoformat(),
            "runs": runs,
            "load_before": load,
            "machine": _machine(),
            "versions": {"python": platform.python_version()}
            | servers[name]
            | {library: version(library) for library in _LIBRARIES},
            "figures": [figure.as_row() | {"values": list(figure.values)} for figure in figures],
        }
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")
    PAGE.write_text(page(read()), "utf-8")


def read() -> dict[str, Any]:
    """What is recorded so far, by bench."""
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))
    return found


def page(results: Mapping[str, Any]) -> str:
    """The document that shows these results."""
    parts = [_INTRODUCTION]
    for name in sorted(results):
        entry = results[name]
        machine = entry["machine"]
        parts.append(f"## {name}\n\n{registry.summary(name)}\n")
        parts.append("| " + " | ".join(_HEADINGS) + " |\n" + "|---" * len(_HEADINGS) + "|")
        for row in entry["figures"]:
            plain = {name: value for name, value in row.items() if name not in ("met", "values")}
            figure = Figure(**plain, values=tuple(row["values"]))
            if figure.met != row["met"]:
                raise ValueError(f"{RESULTS.name}: {figure.name} with ratio {figure.ratio} says met: {row['met']}")
            parts.append("| " + " | ".join(_cells(figure)) + " |")
        versions = ", ".join(f"{library} {number}" for library, number in entry["versions"].items())
        parts.append(
            f"\n{entry['date']}, {entry['runs']} runs, load {entry['load_before']} before; {machine['processor']}, "
            f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; {versions}.\n"
        )
    return "\n".join(parts)


def _cells(figure: Figure) -> tuple[str, ...]:
    value = f"{_number(figure.value)} {figure.unit}"
    if len(figure.values) > 1:
        value += f" ({_number(min(figure.values))} - {_number(max(figure.values))})"
    target = "" if figure.target is None else f"{figure.target:.3g}"
    met = "" if figure.target is None else "yes" if figure.met else "NO"
    return figure.name, value, f"{figure.ratio:.3g}", figure.against, target, met


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _machine() -> dict[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    try:
        processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except FileNotFoundError:  # not Linux
        processor = None
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
    }
