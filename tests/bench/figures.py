"""What a bench says: a value, and its ratio to what it is held against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median


@dataclass(frozen=True)
class Figure:
    """One line of the result. `ratio` is how many times as good as `against` it is, whatever the value's direction."""

    name: str
    value: float
    unit: str
    ratio: float
    against: str
    target: float | None
    """Least ratio that is good enough; None where the figure is only reported."""
    values: tuple[float, ...] = ()
    """Of the single runs, where this is their median."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and math.isfinite(self.ratio)):
            raise ValueError(f"{self.name}: {self.value} {self.unit}, ratio {self.ratio}: nothing was measured")

    @property
    def met(self) -> bool:
        return self.target is None or self.ratio >= self.target

    def as_row(self) -> dict[str, object]:
        """With the names that stand in the JSON line."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "ratio": self.ratio,
            "against": self.against,
            "target": self.target,
            "met": self.met,
        }


def at_least(name: str, value: float, unit: str, target: float, peer: float, against: str) -> Figure:
    """More is better: `value` must be `target` times the peer's, which was measured in the same run (or is a limit)."""
    return Figure(name, value, unit, value / peer, against, target)


def at_most(name: str, value: float, unit: str, limit: float, against: str) -> Figure:
    """Less is better: `value` must not exceed `limit`."""
    return Figure(name, value, unit, limit / value, against, 1.0)


def reported(name: str, value: float, unit: str, peer: float, against: str) -> Figure:
    """Something to hold others against, or to know."""
    return Figure(name, value, unit, value / peer, against, None)


def medians(runs: Sequence[Sequence[Figure]]) -> list[Figure]:
    """The median of each figure over the runs, of value and of ratio each.

    Raises ValueError where two runs measured different things.
    """
    names = [figure.name for figure in runs[0]]
    if len(set(names)) != len(names) or any([figure.name for figure in run] != names for run in runs):
        raise ValueError(f"the runs do not bear the same names: {[[figure.name for figure in run] for run in runs]}")
    found = []
    for same in zip(*runs, strict=True):
        values = tuple(figure.value for figure in same)
        found.append(replace(same[0], value=median(values), ratio=median(figure.ratio for figure in same), values=values))
    return found
