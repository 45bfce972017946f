"""A one-time top-up is spent once, to a millionth, whatever period that falls in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from metering.grants import Cover, Grant, added
from metering.periods import PeriodKind
from meterline_schemas.quantity import parse_quantity
from meterline_schemas.types import Micros

START = date(2026, 3, 1)


def on(month: int, day: int) -> date:
    return date(2026, month, day)


def grant(quantity: str, since: date = START, until: date = date(2027, 1, 1)) -> Grant:
    return Grant(parse_quantity(quantity), since, until)


def added_to_ten(grants: list[Grant], used: Mapping[date, str], day: date, kind: PeriodKind = "month") -> Micros:
    return added(parse_quantity("10"), kind, 1, grants, {when: parse_quantity(quantity) for when, quantity in used.items()}, day)


def test_a_grant_adds_to_the_limit_on_its_days_and_on_no_others() -> None:
    grants = [grant("5", on(3, 10), on(3, 20))]
    assert [added_to_ten(grants, {}, on(3, day)) for day in (9, 10, 19, 20)] == [
        0,
        parse_quantity("5"),
        parse_quantity("5"),
        0,
    ]


def test_what_was_used_above_the_limit_is_spent_and_the_rest_goes_over_into_the_next_period() -> None:
    used = {on(3, 5): "8", on(3, 6): "5.5"}
    assert added_to_ten([grant("5")], used, on(3, 31)) == parse_quantity("5")
    assert added_to_ten([grant("5")], used, on(4, 1)) == parse_quantity("1.5")
    assert added_to_ten([grant("5")], {**used, on(4, 2): "100"}, on(5, 1)) == 0


def test_what_a_grant_has_paid_for_stays_paid_for_in_that_period_when_it_has_expired() -> None:
    grants = [grant("5", on(3, 1), on(3, 10))]
    assert added_to_ten(grants, {on(3, 5): "13"}, on(3, 20)) == parse_quantity("3")
    assert added_to_ten(grants, {on(3, 5): "13", on(3, 15): "1"}, on(3, 20)) == parse_quantity("3")
    assert added_to_ten(grants, {on(3, 5): "13"}, on(4, 1)) == 0


def test_the_grant_that_expires_first_is_spent_first() -> None:
    later, sooner = grant("5", until=on(9, 1)), grant("5", until=on(4, 15))
    used = {on(3, 5): "16"}
    assert added_to_ten([later, sooner], used, on(4, 1)) == parse_quantity("4")
    assert added_to_ten([later, sooner], used, on(4, 15)) == parse_quantity("4")
    assert added_to_ten([later, sooner], {on(3, 5): "13"}, on(4, 14)) == parse_quantity("7")
    assert added_to_ten([later, sooner], {on(3, 5): "13"}, on(4, 15)) == parse_quantity("5")


def test_a_grant_that_begins_later_in_the_period_pays_for_what_was_above_the_limit_before() -> None:
    assert added_to_ten([grant("5", on(3, 20))], {on(3, 5): "12"}, on(4, 1)) == parse_quantity("3")


def test_a_correction_makes_room_in_its_own_period_only() -> None:
    used = {on(3, 5): "14", on(3, 6): "-4", on(3, 7): "3"}
    # 13 of 10 + 5 are used; the highest sum was 14.
    assert added_to_ten([grant("5")], used, on(3, 8)) == parse_quantity("5")
    assert added_to_ten([grant("5")], used, on(4, 1)) == parse_quantity("1")


def test_each_day_of_a_daily_limit_spends() -> None:
    used = {on(3, day): "11" for day in (1, 2, 3)}
    assert added_to_ten([grant("5")], used, on(3, 4), "day") == parse_quantity("2")


def test_a_lifetime_limit_gets_all_of_what_counts_today() -> None:
    grants = [grant("5"), grant("7", until=on(4, 1))]
    assert added_to_ten(grants, {}, on(3, 31), "lifetime") == parse_quantity("12")
    assert added_to_ten(grants, {}, on(4, 1), "lifetime") == parse_quantity("5")


days = st.integers(0, 120).map(lambda offset: START + timedelta(days=offset))
amounts = st.integers(0, 50).map(Micros)


@given(
    limit=st.integers(0, 60).map(Micros),
    kind=st.sampled_from(["day", "month", "billing_period"]),
    anchor=st.integers(1, 31),
    grants=st.lists(st.tuples(amounts, days, st.integers(0, 90)), max_size=4),
    used=st.dictionaries(days, amounts, max_size=30),
)
def test_no_more_is_ever_paid_for_than_was_granted(
    limit: Micros, kind: PeriodKind, anchor: int, grants: list[tuple[Micros, date, int]], used: dict[date, Micros]
) -> None:
    """Held against a client that uses whatever it is allowed: all it got beyond the limits is what was granted."""
    made = [Grant(quantity, since, since + timedelta(days=life)) for quantity, since, life in grants]
    cover = Cover(limit, kind, anchor, made)
    beyond = 0
    taken: dict[date, int] = {}
    for day in (START + timedelta(days=offset) for offset in range(121)):
        cover.use(day, 0)
        in_period = sum(quantity for before, quantity in taken.items() if _same_period(kind, anchor, before, day))
        wish = used.get(day, Micros(0))
        allowed = min(wish, max(0, limit + cover.added(day) - in_period))
        cover.use(day, allowed)
        taken[day] = allowed
        beyond += max(0, in_period + allowed - limit) - max(0, in_period - limit)
        at_once = added(limit, kind, anchor, made, {when: Micros(quantity) for when, quantity in taken.items()}, day)
        assert at_once == cover.added(day)
    assert beyond <= sum(quantity for quantity, _, _ in grants)


def _same_period(kind: PeriodKind, anchor: int, one: date, other: date) -> bool:
    from metering.periods import current

    return current(kind, one, anchor) == current(kind, other, anchor)
