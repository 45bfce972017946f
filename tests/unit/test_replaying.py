"""A month played again answers as checks would have, and what is denied is not used."""

from __future__ import annotations

from datetime import date

import pytest

from metering.grants import Grant
from metering.limits import Limit, Reason, Standing
from metering.periods import PeriodKind
from metering.replaying import Replay, Tally, Terms, Used
from meterline_schemas.quantity import parse_quantity
from meterline_schemas.types import Micros

START = date(2026, 10, 1)


def terms(
    limit: str | None, kind: PeriodKind = "month", *, hard: bool = True, anchor: int = 1, grants: tuple[Grant, ...] = ()
) -> Terms:
    quantity = None if limit is None else parse_quantity(limit)
    standing = Standing(True, True, True, Limit(quantity, hard))
    return Terms(standing, kind, anchor, grants)


def played(under: Terms, *events: tuple[int, str], before: dict[date, Micros] | None = None) -> Tally:
    """Events as (day of October, quantity); a negative one is a correction."""
    replay = Replay(under, START, before or {})
    for day, quantity in events:
        replay.play(Used(date(2026, 10, day), parse_quantity(quantity), not quantity.startswith("-")))
    return replay.tally


def test_what_is_denied_is_not_used_so_that_a_smaller_one_still_fits() -> None:
    assert played(terms("10"), (1, "6"), (2, "5"), (3, "4"), (4, "0.000001")) == Tally(4, 2, Reason.LIMIT_EXCEEDED)


def test_a_correction_is_counted_and_not_asked_for() -> None:
    assert played(terms("10"), (1, "10"), (2, "-4"), (3, "4"), (4, "1")) == Tally(3, 1, Reason.LIMIT_EXCEEDED)


@pytest.mark.parametrize(
    ("kind", "anchor", "denied"),
    [("day", 1, 0), ("month", 1, 1), ("billing_period", 3, 0), ("billing_period", 2, 1), ("lifetime", 1, 2)],
)
def test_each_period_begins_anew_on_its_day(kind: PeriodKind, anchor: int, denied: int) -> None:
    before = {date(2026, 9, 30): parse_quantity("3")} if kind == "lifetime" else {}
    assert played(terms("10", kind, anchor=anchor), (2, "8"), (3, "8"), before=before).denied == denied


def test_what_was_used_in_the_running_period_before_the_month_counts() -> None:
    before = {date(2026, 9, 14): parse_quantity("100"), date(2026, 9, 15): parse_quantity("9")}
    assert played(terms("10", "billing_period", anchor=15), (1, "1"), (2, "1"), (15, "10"), before=before).denied == 1


def test_soft_and_unlimited_deny_nothing_and_what_is_in_no_plan_everything() -> None:
    assert played(terms("1", hard=False), (1, "5"), (2, "5")).denied == 0
    assert played(terms(None), (1, "5")).denied == 0
    no_plan = Terms(Standing(True, False, True), None, 1)
    assert played(no_plan, (1, "5"), (2, "0")) == Tally(2, 2, Reason.NO_SUBSCRIPTION)


def test_grants_are_spent_as_checks_spend_them() -> None:
    grant = Grant(parse_quantity("5"), date(2026, 9, 10), date(2026, 10, 20))
    before = {date(2026, 9, 12): parse_quantity("12")}
    under = terms("10", grants=(grant,))
    assert played(under, (1, "13"), (2, "0.000001"), before=before).denied == 1
    assert played(under, (1, "13.000001"), before=before).denied == 1
    assert played(under, (20, "10"), (21, "1"), before=before).denied == 1
