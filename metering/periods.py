"""Periods: [start, end) in UTC days. Pure; dates go in, dates come out.

Every period starts and ends at 00:00 UTC. A billing period starts on the tenant's anchor day; an anchor of 29 to 31 falls
on the last day of a month that is too short for it, and returns to its own day in the next month that has it.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple, assert_never

PeriodKind = Literal["day", "month", "billing_period", "lifetime"]

FIRST_DAY = date(1970, 1, 1)
LAST_DAY = date(9999, 12, 31)
"""The end of a lifetime: exclusive, like every end."""

PERIODS_MAX = 1_200
"""Most periods that one walk yields: a hundred years of months."""

_MONTH = re.compile(r"(\d{4})-(\d{2})")


class Period(NamedTuple):
    """[start, end): `start` is the first day, `end` the first day after it."""

    start: date
    end: date

    def holds(self, day: date) -> bool:
        """Whether the day lies in the period."""
        return self.start <= day < self.end

    @property
    def starts_at(self) -> datetime:
        """The first instant."""
        return midnight(self.start)

    @property
    def ends_at(self) -> datetime:
        """The first instant after it."""
        return midnight(self.end)


def midnight(day: date) -> datetime:
    """00:00 UTC of a day."""
    return datetime.combine(day, time.min, tzinfo=UTC)


def day(of: date) -> Period:
    """The one day."""
    return Period(of, of + timedelta(days=1))


def month(of: date) -> Period:
    """The calendar month that a day lies in."""
    return billing_period(of, 1)


def lifetime() -> Period:
    """All days."""
    return Period(FIRST_DAY, LAST_DAY)


def parse_month(text: str) -> tuple[int, int]:
    """(year, month) of "2026-10". Raises ValueError that says what is wanted."""
    match = _MONTH.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 12 or not FIRST_DAY.year <= int(match[1]) < LAST_DAY.year:
        raise ValueError(f"{text!r} is no month: write it as 2026-10")
    return int(match[1]), int(match[2])


def billing_period(of: date, anchor_day: int) -> Period:
    """The billing period of a tenant that a day lies in."""
    start = _anchored(of.year, of.month, anchor_day)
    if of < start:
        start = _anchored(*_months_on(of.year, of.month, -1), anchor_day)
    return billing_period_starting_in(start.year, start.month, anchor_day)


def billing_period_starting_in(year: int, month_number: int, anchor_day: int) -> Period:
    """The one billing period that starts in a calendar month; with anchor day 1 it is the month itself."""
    return Period(
        _anchored(year, month_number, anchor_day),
        _anchored(*_months_on(year, month_number, 1), anchor_day),
    )


def previous(period: Period, anchor_day: int) -> Period:
    """The billing period that ends where this one starts."""
    return billing_period(period.start - timedelta(days=1), anchor_day)


def billing_periods(first: date, last: date, anchor_day: int) -> Iterator[Period]:
    """The billing periods from the one that holds `first` to the one that holds `last`, oldest first.

    Raises ValueError when there would be more than PERIODS_MAX.
    """
    period = billing_period(first, anchor_day)
    for _ in range(PERIODS_MAX):
        if period.start > last:
            return
        yield period
        period = billing_period(period.end, anchor_day)
    raise ValueError(f"more than {PERIODS_MAX} periods from {first} to {last}")


def current(kind: PeriodKind, on: date, anchor_day: int) -> Period:
    """The period of a kind that a day lies in."""
    match kind:
        case "day":
            return day(on)
        case "month":
            return month(on)
        case "billing_period":
            return billing_period(on, anchor_day)
        case "lifetime":
            return lifetime()
        case _:
            assert_never(kind)


def _anchored(year: int, month_number: int, anchor_day: int) -> date:
    if not 1 <= anchor_day <= 31:
        raise ValueError(f"anchor day {anchor_day} is not within 1 to 31")
    return date(year, month_number, min(anchor_day, calendar.monthrange(year, month_number)[1]))


def _months_on(year: int, month_number: int, months: int) -> tuple[int, int]:
    index = year * 12 + month_number - 1 + months
    return index // 12, index % 12 + 1
