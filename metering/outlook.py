"""How far usage has come against a limit, and where it leads by the end of the period. Pure; an instant goes in."""

from __future__ import annotations

from datetime import datetime, timedelta

from metering.periods import Period
from meterline_schemas.types import Micros

LEAST_ELAPSED = timedelta(hours=1)
"""A period that has just begun is taken to be this old: one event in its first second says nothing of a month."""
PERCENT_STEP = 10_000
"""Percentages are told to a hundredth, rounded down: 100.00 is said when the limit is reached, and not before."""


def projected(used: Micros, period: Period, counted_until: datetime) -> Micros:
    """What will have been used at the period's end if it goes on at its average so far. In a period that is over, what was used.

    `counted_until` is how far the counters reach: usage up to then is spread evenly over the time up to then.
    """
    length = period.ends_at - period.starts_at
    elapsed = min(max(counted_until - period.starts_at, LEAST_ELAPSED), length)
    second = timedelta(seconds=1)
    return Micros(used * (length // second) // (elapsed // second))


def percent(used: Micros, limit: Micros | None) -> Micros | None:
    """What part of the limit was used, in millionths of a percent; None where there is no limit, or one of nothing."""
    if not limit:
        return None
    return Micros(used * 10_000 // limit * PERCENT_STEP)
