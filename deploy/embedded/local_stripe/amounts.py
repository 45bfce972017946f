"""What a quantity costs, in the currency's smallest unit. Exact fractions inside; one rounding, at the line."""

from __future__ import annotations

from fractions import Fraction

from deploy.embedded.local_stripe.objects import Body


def rounded(amount: Fraction) -> int:
    """To the nearest whole unit; a half goes away from zero."""
    doubled = amount * 2
    whole = (abs(doubled.numerator) + doubled.denominator) // (2 * doubled.denominator)
    return whole if amount >= 0 else -whole


def cost(price: Body, quantity: int) -> Fraction:
    """The price of a quantity. What is less than nothing costs nothing."""
    quantity = max(quantity, 0)
    if price["billing_scheme"] == "per_unit":
        return Fraction(price["unit_amount_decimal"]) * quantity
    if price["tiers_mode"] == "volume":
        tier = next(one for one in price["tiers"] if one["up_to"] is None or quantity <= one["up_to"])
        return _of_tier(tier, quantity)
    total, below = Fraction(0), 0
    for tier in price["tiers"]:
        top = quantity if tier["up_to"] is None else min(quantity, tier["up_to"])
        if quantity > below or below == 0:
            total += _of_tier(tier, max(top - below, 0))
        if tier["up_to"] is None or quantity <= tier["up_to"]:
            break
        below = tier["up_to"]
    return total


def share(amount: Fraction, from_at: int, start: int, end: int) -> Fraction:
    """The part of an amount for [start, end) that falls to [from_at, end)."""
    return amount * Fraction(end - from_at, end - start)


def discounted(amount: int, coupon: Body) -> int:
    """How much a coupon takes off an amount, never more than all of it."""
    if amount <= 0:
        return 0
    if coupon["percent_off"] is not None:
        return min(amount, rounded(amount * Fraction(str(coupon["percent_off"])) / 100))
    return min(amount, int(coupon["amount_off"]))


def _of_tier(tier: Body, quantity: int) -> Fraction:
    unit, flat = tier["unit_amount_decimal"], tier["flat_amount_decimal"]
    return Fraction(unit or 0) * quantity + Fraction(flat or 0)
