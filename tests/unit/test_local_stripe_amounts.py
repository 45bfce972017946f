"""What things cost at the local Stripe, against slow and obvious sums; and when cycles end."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.embedded.local_stripe import amounts, cycles
from deploy.embedded.local_stripe.objects import Body

UNITS = st.integers(0, 5_000).map(lambda number: f"{number / 1000:.3f}")
FLATS = st.none() | st.integers(0, 900).map(str)


@st.composite
def tiered(draw: st.DrawFn, mode: str) -> Body:
    tops = sorted(draw(st.sets(st.integers(1, 200), max_size=4)))
    tiers = [{"up_to": top, "unit_amount_decimal": draw(UNITS), "flat_amount_decimal": draw(FLATS)} for top in [*tops, None]]
    return {"billing_scheme": "tiered", "tiers_mode": mode, "tiers": tiers}


def unit_by_unit(price: Body, quantity: int) -> Fraction:
    """Each unit pays the rate of the tier it falls into; each tier that was reached its flat fee once."""
    total, seen = Fraction(0), set()
    for number in range(1, quantity + 1):
        place, tier = next(
            (place, one) for place, one in enumerate(price["tiers"]) if one["up_to"] is None or number <= one["up_to"]
        )
        total += Fraction(tier["unit_amount_decimal"])
        if place not in seen:
            seen.add(place)
            total += Fraction(tier["flat_amount_decimal"] or 0)
    return total


@given(tiered("graduated"), st.integers(1, 300))
def test_a_graduated_price_is_what_counting_unit_by_unit_gives(price: Body, quantity: int) -> None:
    assert amounts.cost(price, quantity) == unit_by_unit(price, quantity)


@given(tiered("volume"), st.integers(1, 300))
def test_a_volume_price_takes_one_tier_for_all_units(price: Body, quantity: int) -> None:
    tier = next(one for one in price["tiers"] if one["up_to"] is None or quantity <= one["up_to"])
    expected = quantity * Fraction(tier["unit_amount_decimal"]) + Fraction(tier["flat_amount_decimal"] or 0)
    assert amounts.cost(price, quantity) == expected


def test_no_usage_costs_the_first_tiers_flat_fee_only() -> None:
    tiers = [{"up_to": 10, "unit_amount_decimal": "1", "flat_amount_decimal": "7"}]
    tiers.append({"up_to": None, "unit_amount_decimal": "2", "flat_amount_decimal": "9"})
    price: Body = {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": tiers}
    assert amounts.cost(price, 0) == amounts.cost(price, -5) == 7


@pytest.mark.parametrize(("amount", "whole"), [("0.5", 1), ("0.49", 0), ("-0.5", -1), ("2.5", 3), ("-2.4", -2), ("100.5", 101)])
def test_a_half_goes_away_from_zero(amount: str, whole: int) -> None:
    assert amounts.rounded(Fraction(amount)) == whole


@given(st.integers(0, 10**9), st.integers(1, 10_000), st.integers(0, 10_000))
def test_the_two_parts_of_a_period_are_all_of_it(amount: int, length: int, cut: int) -> None:
    cut = min(cut, length)
    later = amounts.share(Fraction(amount), cut, 0, length)
    assert later + (amount - later) == amount
    assert 0 <= later <= amount


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def test_a_month_that_lacks_the_anchors_day_ends_on_its_last_and_the_next_returns() -> None:
    anchor = at("2026-01-31T10:00:00")
    assert cycles.after(anchor, "month", 1, anchor) == at("2026-02-28T10:00:00")
    assert cycles.after(anchor, "month", 1, at("2026-02-28T10:00:00")) == at("2026-03-31T10:00:00")
    assert cycles.after(at("2024-02-29T00:00:00"), "year", 1, at("2024-03-01T00:00:00")) == at("2025-02-28T00:00:00")


def test_a_day_that_the_anchors_own_month_lacks_returns_in_the_next() -> None:
    anchor = cycles.first_on(31, 0, at("2026-02-03T10:00:00"))
    assert anchor == at("2026-02-28T00:00:00")
    assert cycles.after(anchor, "month", 1, anchor, 31) == at("2026-03-31T00:00:00")
    assert cycles.first_on(1, 0, at("2026-12-01T00:00:00")) == at("2027-01-01T00:00:00")
    assert cycles.first_on(5, 3_600, at("2026-03-05T00:30:00")) == at("2026-03-05T01:00:00")
    assert cycles.first_on(29, 0, at("2026-03-05T00:30:00"), 2) == at("2027-02-28T00:00:00")


def test_an_anchor_ahead_is_the_end_of_the_first_cycle() -> None:
    assert cycles.after(at("2026-03-10T00:00:00"), "month", 1, at("2026-03-01T00:00:00")) == at("2026-03-10T00:00:00")
    assert cycles.after(at("2026-03-10T00:00:00"), "week", 2, at("2026-03-10T00:00:00")) == at("2026-03-24T00:00:00")
