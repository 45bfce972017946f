"""What one-time top-ups add to a limit. Pure; days and millionths go in.

A grant counts on the days [valid_from, expires_on). It is spent once, whatever period that falls in:

- In a period, the highest sum that was used is held against the limit. What lies above it is paid for by the grants that
  count on that day, the one that expires first being spent first. What a grant has paid for stays paid for in that period.
- What is left of a grant goes over into the next period, until its last day.
- Usage taken back by a correction makes room in its own period again; a grant is not filled up once that period is over.
- What no grant could pay for is overage, unless a grant that begins later in the same period pays for it.

A lifetime limit has one period without days to walk: there every grant that counts today adds all of its quantity.

The limit is the one that stands now, for the days past too: after a change of the limit, what was spent is worked out anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

from metering.limits import ZERO
from metering.periods import PeriodKind, current
from meterline_schemas.types import Micros

DAYS_MAX = 400
"""Longest life of a grant. Grants that expired longer ago than this are not looked at any more."""


class Grant(NamedTuple):
    """One top-up."""

    quantity: Micros
    valid_from: date
    expires_on: date

    def counts_on(self, day: date) -> bool:
        """Whether it may be spent on that day."""
        return self.valid_from <= day < self.expires_on


class Cover:
    """A limit and its grants, walked from day to day. Days never go back."""

    def __init__(self, limit: Micros, kind: PeriodKind, anchor_day: int, grants: Sequence[Grant]) -> None:
        self._limit, self._kind, self._anchor_day = limit, kind, anchor_day
        self._grants = sorted(grants, key=lambda grant: (grant.expires_on, grant.valid_from))
        self._left = [int(grant.quantity) for grant in self._grants]
        self._ends: date | None = None
        """The end of the period that the walk is in."""
        self._used = self._highest = self._paid = 0

    def use(self, day: date, quantity: int) -> None:
        """Adds what was used on a day; zero lets grants that begin on it pay for what is open."""
        if self._ends is None or day >= self._ends:
            self._ends = current(self._kind, day, self._anchor_day).end
            self._used = self._highest = self._paid = 0
        self._used += quantity
        self._highest = max(self._highest, self._used)
        if self._kind == "lifetime":
            return
        owed = self._highest - self._limit - self._paid
        for index, grant in enumerate(self._grants):
            if owed <= 0:
                break
            if grant.counts_on(day):
                spent = min(owed, self._left[index])
                self._left[index] -= spent
                self._paid += spent
                owed -= spent

    def added(self, day: date) -> Micros:
        """What the grants add to the limit of the period that holds `day`, which the walk has reached."""
        left = sum(left for grant, left in zip(self._grants, self._left, strict=True) if grant.counts_on(day))
        return Micros(self._paid + left)


def added(
    limit: Micros, kind: PeriodKind, anchor_day: int, grants: Sequence[Grant], used: Mapping[date, Micros], on: date
) -> Micros:
    """What the grants add to the limit on a day, from what was used on each day since `history_from` of them."""
    if not grants:
        return ZERO
    cover = Cover(limit, kind, anchor_day, grants)
    if kind != "lifetime":
        begins = {grant.valid_from for grant in grants}
        for day in sorted(day for day in begins | used.keys() if day < on):
            cover.use(day, used.get(day, ZERO))
    cover.use(on, used.get(on, ZERO))
    return cover.added(on)


def history_from(grants: Sequence[Grant]) -> date:
    """The first day whose usage may matter: the period in which the first grant begins is not longer than 31 days."""
    return min(grant.valid_from for grant in grants) - timedelta(days=31)
