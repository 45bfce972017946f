"""What work costs in credits: a model's price for its tokens, an operation's price for each time.

A cost is exact, and rounded once, on the whole sum, up to the next millionth of a credit: nothing is had for less than its
price, and no part is rounded by itself. Prices are integers of 10^-12 credits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

from metering.limits import PRICE_ONE
from meterline_schemas.quantity import MICRO
from meterline_schemas.types import Micros

TOKENS_MAX: Final = 10**12
"""Of one kind, in one calculation."""
_PER_MICRO: Final = PRICE_ONE // MICRO


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a model has read and written. The three do not overlap: `cached` are not in `input`."""

    input: int = 0
    output: int = 0
    cached: int = 0

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached"):
            if not 0 <= getattr(self, name) <= TOKENS_MAX:
                raise ValueError(f"{name} tokens are not within 0 and {TOKENS_MAX}")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Of `per_tokens` tokens of each kind, from a day on."""

    model_id: str
    valid_from: date
    per_tokens: int
    input: int
    output: int
    cached: int

    def cost(self, tokens: Tokens) -> Micros:
        exact = tokens.input * self.input + tokens.output * self.output + tokens.cached * self.cached
        return Micros(-(-exact // (self.per_tokens * _PER_MICRO)))

    def as_json(self) -> dict[str, Any]:
        """As it is kept with what was charged by it: enough to work the cost out again."""
        return {
            "modelId": self.model_id,
            "validFrom": self.valid_from.isoformat(),
            "perTokens": self.per_tokens,
            "input": price_text(self.input),
            "output": price_text(self.output),
            "cached": price_text(self.cached),
        }

    @classmethod
    def of_json(cls, kept: dict[str, Any]) -> ModelPrice:
        prices = (price_units(Decimal(kept[kind])) for kind in ("input", "output", "cached"))
        return cls(kept["modelId"], date.fromisoformat(kept["validFrom"]), kept["perTokens"], *prices)


@dataclass(frozen=True, slots=True)
class OperationPrice:
    """Of an operation, each time, from a day on."""

    operation: str
    valid_from: date
    each: int

    def cost(self, times: int = 1) -> Micros:
        if not 0 <= times <= TOKENS_MAX:
            raise ValueError(f"{times} times are not within 0 and {TOKENS_MAX}")
        return Micros(-(-times * self.each // _PER_MICRO))

    def as_json(self) -> dict[str, Any]:
        """As it is kept with what was charged by it."""
        return {"operation": self.operation, "validFrom": self.valid_from.isoformat(), "each": price_text(self.each)}


def price_units(credits: Decimal) -> int:
    """A price as an integer of 10^-12 credits."""
    numerator, denominator = credits.as_integer_ratio()
    units, rest = divmod(numerator * PRICE_ONE, denominator)
    assert rest == 0, "a price has 12 decimals at most"
    return units


def price_text(units: int) -> str:
    """The shortest exact text of a price in credits."""
    whole, rest = divmod(units, PRICE_ONE)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")
