"""Currencies as Stripe counts them: how many decimals the smallest unit has, and which amounts can be charged. Pure."""

from __future__ import annotations

from decimal import Decimal

_ZERO_DECIMALS = frozenset(
    ("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf")
)
_THREE_DECIMALS = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))
# They have no decimals any more, and are still written with two: those must be 00.
_WRITTEN_WITH_ZEROS = frozenset(("isk", "ugx"))


def exponent(currency: str) -> int:
    """Decimals of the smallest unit: 2 for usd, 0 for jpy, 3 for kwd."""
    if currency in _ZERO_DECIMALS:
        return 0
    return 3 if currency in _THREE_DECIMALS else 2


def step(currency: str) -> int:
    """What an amount in the smallest unit must be a multiple of: Stripe charges no 0.001 kwd and no 0.50 isk."""
    if currency in _THREE_DECIMALS:
        return 10
    return 100 if currency in _WRITTEN_WITH_ZEROS else 1


def to_major(amount: int, currency: str) -> Decimal:
    """An amount of the smallest unit as people write it: 4900 usd is 49.00."""
    return Decimal(amount).scaleb(-exponent(currency))
