"""How far usage has come, and where it leads, exactly."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.alerts import reached
from metering.limits import Limit
from metering.outlook import percent, projected
from metering.periods import Period
from meterline_schemas.quantity import parse_quantity
from meterline_schemas.types import Micros

TEN_DAYS = Period(date(2026, 11, 1), date(2026, 11, 11))


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("used", "until", "expected"),
    [
        ("1", at(2), "10"),
        ("1.000001", at(6), "2.000002"),
        ("3", at(11), "3"),
        # The counters may reach further than the period.
        ("3", at(20), "3"),
        # In its first hour a period is taken to be an hour old.
        ("1", at(1, 0, 1), "240"),
        ("1", datetime(2026, 10, 1, tzinfo=UTC), "240"),
        ("-2", at(6), "-4"),
        ("0", at(3), "0"),
    ],
)
def test_usage_goes_on_at_its_average_so_far(used: str, until: datetime, expected: str) -> None:
    assert projected(parse_quantity(used), TEN_DAYS, until) == parse_quantity(expected)


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        ("5", "10", "50"),
        ("9.999999", "10", "99.99"),
        ("10", "10", "100"),
        ("1", "3", "33.33"),
        ("12", "10", "120"),
        ("1", None, None),
        ("1", "0", None),
    ],
)
def test_a_percentage_says_a_hundred_when_the_limit_is_reached_and_not_before(
    used: str, limit: str | None, expected: str | None
) -> None:
    found = percent(parse_quantity(used), None if limit is None else parse_quantity(limit))
    assert found == (None if expected is None else parse_quantity(expected))


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        ("7.999999", "10", None),
        ("8", "10", 80),
        ("9.999999", "10", 80),
        ("10", "10", 100),
        ("50", "10", 120),
        ("0", "0", None),
        ("0.000001", "0", 120),
        ("50", None, None),
        ("-1", "0", None),
    ],
)
def test_the_highest_threshold_that_was_reached_is_told(used: str, limit: str | None, expected: int | None) -> None:
    quantity = None if limit is None else parse_quantity(limit)
    assert max(reached(parse_quantity(used), Limit(quantity, hard=True), (80, 100, 120)), default=None) == expected


@given(used=st.integers(0, 10**15).map(Micros), limit=st.integers(1, 10**15).map(Micros))
def test_threshold_and_percentage_agree(used: Micros, limit: Micros) -> None:
    said = percent(used, limit)
    assert said is not None
    assert (reached(used, Limit(limit, hard=True), (100,)) == [100]) == (said >= parse_quantity("100") and used > 0)
