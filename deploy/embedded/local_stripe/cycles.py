"""Billing cycles: instants that follow each other from an anchor, by days, weeks, months or years, in UTC."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

CYCLES_MAX = 20_000
"""Most cycles between an anchor and an instant: fifty years of days."""


def nth(anchor: int, interval: str, count: int, number: int) -> int:
    """The instant `number` cycles after the anchor. A day that a month lacks is its last."""
    at = datetime.fromtimestamp(anchor, UTC)
    steps = count * number
    if interval == "day":
        return int((at + timedelta(days=steps)).timestamp())
    if interval == "week":
        return int((at + timedelta(weeks=steps)).timestamp())
    months = at.year * 12 + at.month - 1 + steps * (12 if interval == "year" else 1)
    year, month = months // 12, months % 12 + 1
    day = min(at.day, calendar.monthrange(year, month)[1])
    return int(at.replace(year=year, month=month, day=day).timestamp())


def after(anchor: int, interval: str, count: int, at: int) -> int:
    """The first instant of the cycle after `at`; the anchor itself while it lies ahead."""
    number = 0
    while nth(anchor, interval, count, number) <= at:
        number += 1
        if number > CYCLES_MAX:
            raise ValueError(f"more than {CYCLES_MAX} cycles since the anchor")
    return nth(anchor, interval, count, number)


def months_on(at: int, months: int) -> int:
    """The same instant some months later."""
    return nth(at, "month", 1, months)
