"""Billing cycles: instants that follow each other from an anchor, by days, weeks, months or years, in UTC."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

CYCLES_MAX = 20_000
"""Most cycles between an anchor and an instant: fifty years of days."""


def nth(anchor: int, interval: str, count: int, number: int, day: int | None = None) -> int:
    """The instant `number` cycles after the anchor. A day that a month lacks is its last.

    `day`: the day of the month that months and years are counted to, where the anchor's own month lacks it.
    """
    at = datetime.fromtimestamp(anchor, UTC)
    steps = count * number
    if interval == "day":
        return int((at + timedelta(days=steps)).timestamp())
    if interval == "week":
        return int((at + timedelta(weeks=steps)).timestamp())
    months = at.year * 12 + at.month - 1 + steps * (12 if interval == "year" else 1)
    year, month = months // 12, months % 12 + 1
    return int(at.replace(year=year, month=month, day=_within(year, month, day or at.day)).timestamp())


def after(anchor: int, interval: str, count: int, at: int, day: int | None = None) -> int:
    """The first instant of the cycle after `at`; the anchor itself while it lies ahead."""
    number = 0
    while nth(anchor, interval, count, number, day) <= at:
        number += 1
        if number > CYCLES_MAX:
            raise ValueError(f"more than {CYCLES_MAX} cycles since the anchor")
    return nth(anchor, interval, count, number, day)


def first_on(day: int, time_s: int, at: int, month: int | None = None) -> int:
    """The first instant after `at` on that day of a month (of that month, where one is named), `time_s` after midnight."""
    begin = datetime.fromtimestamp(at, UTC)
    for ahead in range(13):
        year, number = divmod(begin.year * 12 + begin.month - 1 + ahead, 12)
        found = datetime(year, number + 1, _within(year, number + 1, day), tzinfo=UTC) + timedelta(seconds=time_s)
        if found > begin and month in (None, number + 1):
            return int(found.timestamp())
    raise AssertionError(f"no day {day} within a year")


def months_on(at: int, months: int) -> int:
    """The same instant some months later."""
    return nth(at, "month", 1, months)


def _within(year: int, month: int, day: int) -> int:
    return min(day, calendar.monthrange(year, month)[1])
