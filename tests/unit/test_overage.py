"""An included quantity and a price beyond it become a price that bills exactly this, or none."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.embedded.local_stripe.amounts import cost
from deploy.embedded.local_stripe.objects import Body
from metering.currencies import exponent, step, to_major
from metering.overage import CannotExpress, Graduated, graduated

CURRENCIES = ("usd", "jpy", "kwd", "isk")


def billed(price: Graduated, units: int) -> Fraction:
    """In the smallest unit of the currency, by the rules of graduated tiers."""
    tiers: list[Body] = [{"up_to": None, "unit_amount_decimal": str(price.unit_amount), "flat_amount_decimal": None}]
    if price.included:
        tiers.insert(0, {"up_to": price.included, "unit_amount_decimal": "0", "flat_amount_decimal": None})
    return cost({"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": tiers}, units)


@given(
    included=st.integers(0, 10**9 - 1),
    price=st.integers(1, 10**6),
    decimals=st.integers(0, 6),
    power=st.integers(0, 6),
    currency=st.sampled_from(CURRENCIES),
    used=st.integers(0, 10**10),
)
def test_what_is_billed_is_the_overage_times_its_price_to_the_last_digit(
    included: int, price: int, decimals: int, power: int, currency: str, used: int
) -> None:
    scale = 10**power
    each = Decimal(price).scaleb(-decimals)
    try:
        made = graduated(Decimal(included), each, scale, currency)
    except CannotExpress:
        # Only a price with more decimals than Stripe takes cannot be made of these.
        assert decimals + power - exponent(currency) > 12
        return
    over = max(Fraction(0), Fraction(used, scale) - included)
    assert billed(made, used) == over * Fraction(each) * 10 ** exponent(currency)


@pytest.mark.parametrize(
    ("included", "price", "scale", "currency", "told"),
    [
        ("7.5", "0.02", 1, "usd", r"7\.5 is no whole number of the meter's units at scale 1: set the meter's `scale: 1000000`"),
        ("10", "0.01", 3, "usd", r"no exact price of 1/3, for Stripe takes 12 decimals: set the meter's `scale: 1000000`"),
        ("10", "0.000000001", 1_000_000, "usd", r"set the meter's `scale: 100000`"),
        ("0.000001", "0.0000000001", 1_000_000, "usd", "write a limit and a price with fewer decimals"),
        ("1000000000", "1", 1_000_000, "usd", "more than 15 digits"),
    ],
)
def test_what_stripe_cannot_bill_is_refused_with_the_remedy(
    included: str, price: str, scale: int, currency: str, told: str
) -> None:
    with pytest.raises(CannotExpress, match=told):
        graduated(Decimal(included), Decimal(price), scale, currency)


def test_amounts_are_read_as_the_currency_writes_them() -> None:
    assert [(exponent(one), step(one)) for one in CURRENCIES] == [(2, 1), (0, 1), (3, 10), (2, 100)]
    assert [str(to_major(4900, one)) for one in CURRENCIES] == ["49.00", "4900", "4.900", "49.00"]
