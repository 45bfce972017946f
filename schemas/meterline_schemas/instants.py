"""Instants on the wire: RFC 3339 text to milliseconds since 1970, and back."""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final

INSTANT_PATTERN: Final = (
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
"""The whole text of an instant; that the day exists is checked besides."""

_INSTANT = re.compile(
    r"([0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9])"
    r":([0-5][0-9])(?:\.([0-9]{1,9}))?(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_DAY_MS: Final = 86_400_000


def parse_instant(text: str) -> int:
    """Milliseconds since 1970-01-01T00:00Z, floored; raises ValueError saying what is wrong with `text`.

    Upper-case T and Z only, at most 9 digits of fraction, no second 60, no hour 24, a day of the calendar.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!a} is not an instant such as 2026-11-21T10:00:00.123Z")
    minute, second, fraction, zone = match.groups()
    at_ms = _minute_ms(minute) + int(second) * 1_000
    if fraction is not None:
        # A fraction counts forward from the second, before 1970 too, so cutting digits off is flooring.
        at_ms += int(fraction[:3].ljust(3, "0"))
    if zone != "Z":
        offset_ms = (int(zone[1:3]) * 60 + int(zone[4:])) * 60_000
        at_ms += offset_ms if zone[0] == "-" else -offset_ms
    return at_ms


def format_instant(at_ms: int) -> str:
    """The instant in UTC with milliseconds, `2026-11-21T10:00:00.123Z`; years 1 to 9999."""
    days, rest = divmod(at_ms, _DAY_MS)
    seconds, ms = divmod(rest, 1_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{date.fromordinal(_EPOCH_DAY + days).isoformat()}T{hour:02d}:{minute:02d}:{second:02d}.{ms:03d}Z"


def utc_day(at_ms: int) -> str:
    """The UTC day an instant falls on, "YYYY-MM-DD"."""
    return date.fromordinal(_EPOCH_DAY + at_ms // _DAY_MS).isoformat()


# Events of a stretch of the log share their minutes. The function is pure, so the cache cannot change a verdict.
@lru_cache(maxsize=4_096)
def _minute_ms(text: str) -> int:
    try:
        day = date.fromisoformat(text[:10]).toordinal() - _EPOCH_DAY
    except ValueError:
        raise ValueError(f"{text[:10]} is not a day of the calendar") from None
    return day * _DAY_MS + (int(text[11:13]) * 60 + int(text[14:16])) * 60_000
