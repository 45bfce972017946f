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
    r"([0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]))"
    r"T([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]{1,9}))?"
    r"(?:Z|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
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
    day, hour, minute, second, fraction, sign, offset_hour, offset_minute = match.groups()
    at_ms = _day_ms(day) + int(hour) * 3_600_000 + int(minute) * 60_000 + int(second) * 1_000
    if fraction is not None:
        # A fraction counts forward from the second, before 1970 too, so cutting digits off is flooring.
        at_ms += int(fraction[:3].ljust(3, "0"))
    if sign is not None:
        offset_ms = int(offset_hour) * 3_600_000 + int(offset_minute) * 60_000
        at_ms += offset_ms if sign == "-" else -offset_ms
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


# Events of a stretch of the log share few days. The function is pure, so the cache cannot change a verdict.
@lru_cache(maxsize=2_048)
def _day_ms(day: str) -> int:
    try:
        return (date.fromisoformat(day).toordinal() - _EPOCH_DAY) * _DAY_MS
    except ValueError:
        raise ValueError(f"{day} is not a day of the calendar") from None
