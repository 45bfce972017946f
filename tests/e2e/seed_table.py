"""docs/seed-operations.md, made from the tests: `python -m tests.e2e.seed_table > docs/seed-operations.md`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.e2e.seed_operations import OPERATIONS, SERVICES, SHOWS

FOLDER = Path(__file__).parent

HEAD = """\
# Operations, and the tests that use them

Meterline offers what four services of the field offer: an account service (000) and a payment service (004) over gRPC, a
billing service (003) and an accounting service (001) over HTTP. This table is made from the tests in `tests/e2e`, which talk
to the real servers through a socket: `python -m tests.e2e.seed_table > docs/seed-operations.md`, and a test holds it equal.
"""


class Mark(NamedTuple):
    """A decorator `@seed(...)`."""

    service: str
    operation: str
    shows: tuple[str, ...]
    test: str


def marks() -> Iterator[Mark]:
    """Every one, by file and line. Nothing is imported."""
    for path in sorted(FOLDER.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _marks_of(node, path.stem)


def _marks_of(test: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> Iterator[Mark]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "seed":
            words = [ast.literal_eval(argument) for argument in decorator.args]
            yield Mark(words[0], words[1], tuple(words[2:]), f"{file}::{test.name}")


def render() -> str:
    """The whole document."""
    found = list(marks())
    parts = [HEAD]
    for service, operations in OPERATIONS.items():
        parts.append(f"\n## {service}: {SERVICES[service]}\n\n| operation | shown | test |\n|---|---|---|\n")
        for operation in operations:
            own = [mark for mark in found if (mark.service, mark.operation) == (service, operation)]
            parts += [_row(mark) for mark in own] or [f"| {operation} | - | none |\n"]
    return "".join(parts)


def missing() -> dict[str, list[str]]:
    """Of each operation what no test shows; an operation of which everything is shown is left out."""
    shown: dict[str, set[str]] = {f"{service} {one}": set() for service, all_of in OPERATIONS.items() for one in all_of}
    for mark in marks():
        shown[f"{mark.service} {mark.operation}"] |= set(mark.shows)
    return {name: [one for one in SHOWS if one not in has] for name, has in shown.items() if not set(SHOWS) <= has}


def _row(mark: Mark) -> str:
    shows = ", ".join(one for one in SHOWS if one in mark.shows)
    return f"| {mark.operation} | {shows} | `{mark.test}` |\n"


if __name__ == "__main__":
    sys.stdout.write(render())
