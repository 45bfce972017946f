"""When the log took an event first, where its record was forwarded from the topic of an epoch that has ended.

The broker stamps a forwarded record anew, so the forwarder writes the first stamp beside it. Anybody could write that
header, so it is believed only where it cannot do harm: it moves the time back, never ahead, and by `forwarded_ms_max` at
most. An event without occurredAt then lies where its sender could have put it with occurredAt as well; what is gained is
that one may lie `forwarded_ms_max` deeper in the past than `past_ms_max`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meterline_schemas.rules import Rules

INGESTED_AT_HEADER: Final = "meterline-ingested-at"
"""Milliseconds since 1970, decimal."""
FORWARDED_FROM_HEADER: Final = "meterline-forwarded-from"
"""EPOCH/PARTITION/OFFSET of the record that was forwarded. For people; nothing is decided by it."""

_FIRST_EPOCH: Final = 1
_DIGITS_MAX: Final = 15


def ingested_ms(epoch: int, headers: Iterable[tuple[str, bytes | None]], appended_ms: int, rules: Rules) -> int:
    """The ingest time of a record that the broker stamped `appended_ms`. Pure; never raises.

    A header that is malformed, repeated or out of bounds is not looked at; nor is any in epoch 1, to which nothing is
    forwarded.
    """
    if epoch == _FIRST_EPOCH:
        return appended_ms
    found = [value or b"" for name, value in headers if name == INGESTED_AT_HEADER]
    if len(found) != 1 or not found[0].isdigit() or len(found[0]) > _DIGITS_MAX:
        return appended_ms
    said_ms = int(found[0])
    return said_ms if appended_ms - rules.forwarded_ms_max <= said_ms <= appended_ms else appended_ms
