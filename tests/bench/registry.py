"""Which benches there are: the modules of a folder, each imported only when it is asked for."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from tests.bench.figures import Figure
from tests.bench.place import Place

Measure = Callable[[Place], Generator[Sequence[Figure], None, None]]

_FOLDER = Path(__file__).parent / "benches"


def names() -> list[str]:
    """Of all benches."""
    return sorted(path.stem.replace("_", "-") for path in _FOLDER.glob("*.py") if path.stem != "__init__")


def summary(name: str) -> str:
    """The first line of a bench's docstring."""
    text = (_FOLDER / f"{name.replace('-', '_')}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def load(name: str) -> Measure:
    """Imports a bench."""
    found: Measure = importlib.import_module(f"tests.bench.benches.{name.replace('-', '_')}").measure
    return found
