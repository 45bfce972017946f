"""Quantities: decimal text on the wire, integers of millionths inside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from meterline_schemas.types import Micros

MICRO: Final = 1_000_000
"""Millionths in one unit."""

QUANTITY_PATTERN: Final = r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?"
"""The whole text of a quantity under rules version 1: at most 12 digits before the point and 6 after it."""

_QUANTITY = re.compile(r"(-?)(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,6}))?")
# Sums are wider than one quantity: NUMERIC(38, 6) holds 32 digits before the point.
# The last decimal is none of the noughts that the shortest form leaves out.
_SUM = re.compile(r"(-?)(0|[1-9][0-9]{0,31})(?:\.([0-9]{0,5}[1-9]))?")
_SUMS = re.compile(r"(?:(?!-0\n)-?(?:0|[1-9][0-9]{0,31})(?:\.[0-9]{0,5}[1-9])?\n)*")


def parse_quantity(text: str) -> Micros:
    """The millionths of one event's quantity; raises ValueError saying what the text lacks.

    `-0` is in the grammar and is zero. There is no exponent, no plus sign, no blank, and no digit but ASCII's.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(quantity_problem(text))
    return Micros(_micros(match))


def parse_sum(text: str) -> Micros:
    """As `parse_quantity`, for a sum over events: up to 32 digits before the point, and only in its shortest form."""
    match = _SUM.fullmatch(text)
    if match is None or text == "-0":
        raise ValueError(f"{text[:64]!a} is not a decimal of at most 32 digits and 6 decimals in its shortest form")
    return Micros(_micros(match))


def parse_sums(texts: Sequence[str]) -> list[Micros]:
    """As `parse_sum` of each, in a quarter of the time."""
    joined = "\n".join(texts) + "\n" if texts else ""
    if joined.count("\n") != len(texts) or _SUMS.fullmatch(joined) is None:
        return [parse_sum(text) for text in texts]  # which says what is wrong
    parts = [text.partition(".") for text in texts]
    # The sign is the whole part's, and "-0" followed by decimals is a number with a sign.
    return [Micros(int(whole + decimals.ljust(6, "0"))) for whole, _, decimals in parts]


def format_quantity(micros: int) -> str:
    """The shortest exact text: 1500000 -> "1.5", 0 -> "0", -1 -> "-0.000001"."""
    whole, rest = divmod(abs(micros), MICRO)
    sign = "-" if micros < 0 else ""
    if rest == 0:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{rest:06d}".rstrip("0")


def quantity_problem(text: str) -> str:
    """Why `text` is not a quantity, for the person who sent it. Call it only with text that was refused."""
    shown = ascii(text[:64])
    if "e" in text or "E" in text:
        return f"{shown} has an exponent; write all digits"
    whole, _, decimals = text.lstrip("-").partition(".")
    if whole.isdigit() and (decimals.isdigit() or not decimals):
        if len(decimals) > 6:
            return f"{shown} has more than 6 decimals; a quantity is exact to millionths"
        if len(whole) > 12 and not whole.startswith("0"):
            return f"{shown} has more than 12 digits before the point"
    return f"{shown} is not a decimal such as 1.5: no sign but -, no leading zeros, a digit on each side of the point"


def _micros(match: re.Match[str]) -> int:
    sign, whole, decimals = match.groups()
    micros = int(whole) * MICRO
    if decimals is not None:
        micros += int(decimals.ljust(6, "0"))
    return -micros if sign else micros
