"""A mutant: text of the product that is replaced in a copy, and the test that must then fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final


class PatchDoesNotFit(Exception):
    """The text is not in the file exactly once: the code has changed, and the mutant must be written anew."""


@dataclass(frozen=True)
class Replace:
    """`old` stands in `path` exactly once and becomes `new`."""

    path: str
    old: str
    new: str

    def apply(self, tree: Path) -> None:
        """Raises PatchDoesNotFit."""
        file = tree / self.path
        text = file.read_text("utf-8")
        found = text.count(self.old)
        if found != 1:
            raise PatchDoesNotFit(f"{self.path} holds {found} times, not once: {self.old!r}")
        file.write_text(text.replace(self.old, self.new), "utf-8")


@dataclass(frozen=True)
class Catcher:
    """`python -m` these words, in the copy; it must end with 0 on the code as it is, and with 1 on the mutant."""

    tier: str
    words: tuple[str, ...]
    within_s: float = 240.0

    @property
    def name(self) -> str:
        return f"{self.tier}: {' '.join(self.words)}"


@dataclass(frozen=True)
class Mutant:
    """`means` says which sentence of docs/exactness.md is left out."""

    name: str
    means: str
    patches: Sequence[Replace]
    catcher: Catcher
    fast: bool = False
    """One of those that every test run applies."""


SCHEDULES: Final = Catcher("T1", ("tests.simulation", "--seeds", "0..6000", "--first"))
"""T1: at most so many schedules."""


def processes(test: str, within_s: float = 400.0) -> Catcher:
    """T3: a test on real servers."""
    return Catcher("T3", ("pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0", f"tests/integration/{test}"), within_s)
