"""Amounts of credits in request bodies: exact, from a JSON number or a decimal string."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from meterline_schemas.quantity import QUANTITY_PATTERN, parse_quantity
from meterline_schemas.types import Micros


def _amount(value: Any) -> Micros:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError("want a number of credits, or its digits in quotes")
    micros = parse_quantity(value if isinstance(value, str) else f"{value:f}" if isinstance(value, Decimal) else str(value))
    if micros < 0:
        raise ValueError("credits are not negative")
    return micros


CreditsGiven = Annotated[
    Micros,
    BeforeValidator(_amount),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": QUANTITY_PATTERN}]}),
]
"""At most 12 digits before the point and 6 after it, in millionths once it is read."""
