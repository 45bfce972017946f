"""What ends a schedule."""

from __future__ import annotations


class Violation(Exception):
    """Something that must always hold does not. `invariant` is its name in `docs/exactness.md`, or what stands for it."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant


class Crash(Exception):
    """The process is killed here. No handler of the product names it, so it passes through them all."""
