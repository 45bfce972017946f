"""The repository's own source, read and not imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "control_plane" / "grpc" / "generated"

FOLDERS = {
    # import name: where it lies
    "access": "access",
    "aggregator": "aggregator",
    "billing_exporter": "billing_exporter",
    "cli": "cli",
    "consumers": "consumers",
    "control_plane": "control_plane",
    "deploy": "deploy",
    "entitlements": "entitlements",
    "metering": "metering",
    "meterline": "producers/meterline",
    "meterline_schemas": "schemas/meterline_schemas",
    "runtime": "runtime",
    "store": "store",
}


@dataclass(frozen=True)
class Source:
    """One file: its import name and its syntax tree."""

    path: Path
    module: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """For a message: the path from the root on."""
        return self.path.relative_to(ROOT).as_posix()


@cache
def sources(package: str) -> tuple[Source, ...]:
    """Every Python file of a package, by name."""
    folder = ROOT / FOLDERS[package]
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(path, module, ast.parse(path.read_text("utf-8"), str(path))))
    assert found, f"{package} has no Python file below {folder}"
    return tuple(found)


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of every import, also of those within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            assert node.module is not None
            yield node.module.partition(".")[0], node.lineno


def python_files() -> list[Path]:
    """Every Python file that was written by somebody, tests included."""
    folders = [*FOLDERS.values(), "tests", "examples"]
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if GENERATED not in path.parents)
