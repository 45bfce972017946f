"""What tokens cost: exact, rounded once and up, and the same when it is worked out again."""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.rates import TOKENS_MAX, ModelPrice, OperationPrice, Tokens

DAY = date(2026, 1, 1)
prices = st.integers(0, 10**16)
tokens = st.integers(0, TOKENS_MAX)


@given(prices, prices, prices, st.integers(1, 10**9), tokens, tokens, tokens)
def test_a_cost_is_the_exact_sum_rounded_up_once(
    input_: int, output: int, cached: int, per: int, read: int, written: int, seen: int
) -> None:
    price = ModelPrice("m", DAY, per, input_, output, cached)
    exact = (Fraction(input_) * read + Fraction(output) * written + Fraction(cached) * seen) / per / 10**12
    assert price.cost(Tokens(read, written, seen)) == ceil(exact * 10**6)
    assert ModelPrice.of_json(price.as_json()) == price


def test_parts_are_not_rounded_by_themselves_and_nothing_is_had_for_less() -> None:
    # Each part is a third of a millionth.
    price = ModelPrice("m", DAY, 3, 10**6, 10**6, 10**6)
    assert [price.cost(Tokens(*counts)) for counts in ((0, 0, 0), (1, 0, 0), (1, 1, 1), (1, 1, 2))] == [0, 1, 1, 2]


@given(prices, st.integers(0, 10**6))
def test_an_operation_costs_its_price_each_time(each: int, times: int) -> None:
    assert OperationPrice("o", DAY, each).cost(times) == ceil(Fraction(each * times, 10**6))


def test_prices_are_kept_as_text_in_their_shortest_form() -> None:
    kept = ModelPrice("m", DAY, 1_000_000, 300 * 10**12, 10**11, 1).as_json()
    assert (kept["input"], kept["output"], kept["cached"], kept["validFrom"]) == ("300", "0.1", "0.000000000001", "2026-01-01")


@pytest.mark.parametrize("count", [-1, TOKENS_MAX + 1])
def test_counts_have_bounds(count: int) -> None:
    for counts in ({"input": count}, {"output": count}, {"cached": count}):
        with pytest.raises(ValueError, match="not within"):
            Tokens(**counts)
    with pytest.raises(ValueError, match="not within"):
        OperationPrice("o", DAY, 1).cost(count)
