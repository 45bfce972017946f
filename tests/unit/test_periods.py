"""Billing periods tile the calendar: each day lies in exactly one."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.periods import (
    FIRST_DAY,
    LAST_DAY,
    Period,
    billing_period,
    billing_period_starting_in,
    billing_periods,
    current,
    day,
    month,
    parse_month,
    previous,
)

DAYS = st.dates(min_value=date(1990, 1, 1), max_value=date(2120, 12, 31))
ANCHORS = st.integers(min_value=1, max_value=31)


@given(of=DAYS, anchor=ANCHORS)
def test_every_day_lies_in_its_billing_period_and_neighbours_touch(of: date, anchor: int) -> None:
    period = billing_period(of, anchor)
    assert period.start <= of < period.end
    assert 28 <= (period.end - period.start).days <= 31
    assert previous(period, anchor).end == period.start
    assert billing_period(period.end, anchor).start == period.end
    assert billing_period(period.end - timedelta(days=1), anchor) == period


@given(of=DAYS, anchor=ANCHORS)
def test_each_month_has_exactly_one_period_that_starts_in_it(of: date, anchor: int) -> None:
    period = billing_period_starting_in(of.year, of.month, anchor)
    assert (period.start.year, period.start.month) == (of.year, of.month)
    assert billing_period(period.start, anchor) == period


@pytest.mark.parametrize(
    ("of", "anchor", "start", "end"),
    [
        ("2026-10-01", 1, "2026-10-01", "2026-11-01"),
        ("2026-10-14", 15, "2026-09-15", "2026-10-15"),
        ("2026-10-15", 15, "2026-10-15", "2026-11-15"),
        ("2027-02-27", 31, "2027-01-31", "2027-02-28"),
        ("2027-02-28", 31, "2027-02-28", "2027-03-31"),
        ("2028-02-29", 30, "2028-02-29", "2028-03-30"),
        ("2027-03-30", 31, "2027-02-28", "2027-03-31"),
        ("2027-01-01", 31, "2026-12-31", "2027-01-31"),
    ],
)
def test_anchor_days_clamp_to_the_end_of_short_months(of: str, anchor: int, start: str, end: str) -> None:
    assert billing_period(date.fromisoformat(of), anchor) == (date.fromisoformat(start), date.fromisoformat(end))


def test_a_month_named_on_the_command_line_is_the_calendar_month_for_anchor_day_one() -> None:
    assert billing_period_starting_in(*parse_month("2026-12"), 1) == (date(2026, 12, 1), date(2027, 1, 1))


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "2026-1", "26-10", "2026-10-01", "9999-12", " 2026-10", "1969-12"]
)
def test_a_month_written_otherwise_is_refused_with_the_form_wanted(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 2026-10"):
        parse_month(text)


@pytest.mark.parametrize("anchor", [0, 32, -1])
def test_an_anchor_day_that_no_month_has_is_refused(anchor: int) -> None:
    with pytest.raises(ValueError, match="anchor day"):
        billing_period(date(2026, 1, 1), anchor)


def test_the_periods_between_two_days_come_oldest_first_and_include_both() -> None:
    starts = [period.start.isoformat() for period in billing_periods(date(2026, 9, 20), date(2026, 11, 15), 15)]
    assert starts == ["2026-09-15", "2026-10-15", "2026-11-15"]


def test_a_walk_over_centuries_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        list(billing_periods(date(1970, 1, 1), date(2400, 1, 1), 1))


def test_each_kind_of_period_holds_its_day() -> None:
    on = date(2026, 11, 21)
    assert current("day", on, 1) == day(on) == (on, date(2026, 11, 22))
    assert current("month", on, 15) == month(on) == (date(2026, 11, 1), date(2026, 12, 1))
    assert current("billing_period", on, 15) == (date(2026, 11, 15), date(2026, 12, 15))
    assert current("lifetime", on, 15) == (FIRST_DAY, LAST_DAY)


def test_a_period_begins_and_ends_at_midnight_utc_and_its_end_is_outside() -> None:
    period = Period(date(2026, 10, 1), date(2026, 11, 1))
    assert period.starts_at.isoformat() == "2026-10-01T00:00:00+00:00"
    assert period.ends_at.isoformat() == "2026-11-01T00:00:00+00:00"
    assert period.holds(date(2026, 10, 31))
    assert not period.holds(date(2026, 11, 1))
