"""A month of usage played again under a limit, as if each event had been checked first with its quantity. Pure.

What would have been denied is not used, so that it does not count against what comes after it. A correction is not asked
for; it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import NamedTuple

from metering.grants import Cover, Grant
from metering.limits import ZERO, Reason, Standing, decide
from metering.periods import PeriodKind, current
from meterline_schemas.types import Micros


class Used(NamedTuple):
    """One event."""

    day: date
    quantity: Micros
    asked: bool
    """False: a correction."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a tenant may use of one type."""

    standing: Standing
    """With the limit, and nothing used."""
    kind: PeriodKind | None
    anchor_day: int
    grants: Sequence[Grant] = ()


@dataclass
class Tally:
    """What became of the checks."""

    checks: int = 0
    denied: int = 0
    reason: Reason | None = None
    """Of the first that was denied."""


class Replay:
    """One tenant's usage of one type under some terms, event by event in their order."""

    def __init__(self, terms: Terms, start: date, before: Mapping[date, Micros]) -> None:
        """`before`: what was used on the days before `start`, as far as a period or a grant reaches back; for a lifetime
        all of it, on any of those days."""
        self.tally = Tally()
        self._standing, self._limit = terms.standing, terms.standing.limit
        self._kind, self._anchor_day = terms.kind or "month", terms.anchor_day
        self._base = None if self._limit is None else self._limit.quantity
        self._cover = None if self._base is None else Cover(self._base, self._kind, terms.anchor_day, terms.grants)
        self._ends, self._used = date.min, 0
        begins = {grant.valid_from for grant in terms.grants}
        for day in sorted(day for day in before.keys() | begins if day < start):
            self._use(day, before.get(day, ZERO))

    def play(self, event: Used) -> None:
        """Checks the event and, if it is allowed, uses its quantity. None may lie on an earlier day than the one before it."""
        if not event.asked:
            self._use(event.day, event.quantity)
            return
        self._use(event.day, 0)
        self.tally.checks += 1
        standing = self._standing
        if self._limit is not None and self._base is not None and self._cover is not None:
            allowed = Micros(self._base + self._cover.added(event.day))
            standing = replace(standing, limit=replace(self._limit, quantity=allowed), used=Micros(self._used))
        decision = decide(standing, event.quantity)
        if decision.allowed:
            self._use(event.day, event.quantity)
        else:
            self.tally.denied += 1
            self.tally.reason = self.tally.reason or decision.reason

    def _use(self, day: date, quantity: int) -> None:
        if day >= self._ends:
            self._ends, self._used = current(self._kind, day, self._anchor_day).end, 0
        self._used += quantity
        if self._cover is not None:
            self._cover.use(day, quantity)
