"""Runs schedules by seed."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.violation import Violation
from tests.simulation.world import World


def run(seed: int, verbose: bool = False) -> Violation | None:
    """One schedule, within `seams.driven()`. What it broke, or None.

    An exception that the product raises and that nobody stands for is a violation, too.
    """
    try:
        World(seed, verbose).run()
    except Violation as violation:
        return violation
    except Exception as error:  # noqa: BLE001 - whatever it is, the schedule found it
        raised = Violation("error", f"{type(error).__name__}: {error}")
        raised.__cause__ = error
        return raised
    return None


def first_violation(seeds: Iterable[int]) -> tuple[int, Violation] | None:
    """The first seed that breaks something."""
    for seed in seeds:
        violation = run(seed)
        if violation is not None:
            return seed, violation
    return None
