"""An included quantity and a price beyond it, as the graduated price that bills exactly this at Stripe. Pure.

A meter shows floor(total x scale), so its unit is 1/scale of the usage type's. The first tier ends at included x scale and
costs nothing; a meter's unit beyond it costs price x 10^exponent / scale of the currency's smallest unit. Both are exact
or refused: a rounded price would bill another sum than the catalog says.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation

from metering.currencies import exponent
from metering.export_states import VALUE_MAX, plain

DECIMALS_MAX = 12
"""Of `unit_amount_decimal`."""

_EXACT = Context(prec=100, traps=[Inexact, DivisionByZero, InvalidOperation])


class CannotExpress(ValueError):
    """Stripe has no price that bills this; the message names what can be changed in the catalog."""


@dataclass(frozen=True)
class Graduated:
    """Up to `included` units of the meter for nothing, each beyond at `unit_amount` of the currency's smallest unit."""

    included: int
    unit_amount: Decimal

    def as_terms(self) -> dict[str, str]:
        """What two prices must agree on to bill the same."""
        return {"included": str(self.included), "unit_amount": plain(self.unit_amount)}


def graduated(included: Decimal, price: Decimal, scale: int, currency: str) -> Graduated:
    """The price that bills what goes beyond `included`. Raises CannotExpress with the remedy."""
    units = _EXACT.multiply(included, Decimal(scale))
    if units != units.to_integral_value():
        raise CannotExpress(
            f"{plain(included)} is no whole number of the meter's units at scale {scale}:"
            f" {_other_scale(included, price, currency)}"
        )
    if units > VALUE_MAX:
        raise CannotExpress(f"{plain(included)} has more than 15 digits in the meter's units: give the meter a smaller scale")
    minor = _EXACT.multiply(price, Decimal(10) ** exponent(currency))
    unit_amount = _divided(minor, scale)
    if unit_amount is None:
        raise CannotExpress(
            f"{plain(price)} {currency} is no exact price of 1/{scale}, for Stripe takes {DECIMALS_MAX} decimals:"
            f" {_other_scale(included, price, currency)}"
        )
    return Graduated(int(units), unit_amount)


def _divided(minor: Decimal, scale: int) -> Decimal | None:
    try:
        found = _EXACT.divide(minor, Decimal(scale)).normalize(_EXACT)
    except Inexact:
        return None
    return found if -int(found.as_tuple().exponent) <= DECIMALS_MAX else None


def _other_scale(included: Decimal, price: Decimal, currency: str) -> str:
    minor = _EXACT.multiply(price, Decimal(10) ** exponent(currency))
    fitting = [
        10**power
        for power in range(6, -1, -1)
        if included * 10**power == (included * 10**power).to_integral_value() and _divided(minor, 10**power) is not None
    ]
    if fitting:
        return f"set the meter's `scale: {fitting[0]}`"
    return "write a limit and a price with fewer decimals"
