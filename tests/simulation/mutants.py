"""Deliberate bugs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

MUTANTS: dict[str, Callable[[], AbstractContextManager[object]]] = {}


def applied(name: str | None) -> AbstractContextManager[object]:
    return nullcontext() if name is None else MUTANTS[name]()
