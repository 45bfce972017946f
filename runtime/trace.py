"""W3C trace context, as far as a service that only passes it on needs it: parse, begin, go on.

The header `traceparent` names the request that caused this work: `00-<trace id>-<parent span id>-<flags>`. It comes in by
HTTP, leaves in the Kafka record's header of the same name, and stands in every log line on the way.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

HEADER = "traceparent"
LENGTH_MAX = 128
"""A header of a later version may be longer than version 00's 55 characters; more than this is no trace context."""

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Trace:
    """One span of one trace."""

    trace_id: str
    """32 hexadecimal digits, not all zero."""
    span_id: str
    """16 hexadecimal digits, not all zero."""
    flags: int
    """Bit 0: the caller records this trace."""

    def __str__(self) -> str:
        """As the header's value, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse(header: str | None) -> Trace | None:
    """The header's trace, or None where it is absent or not valid: the standard says to begin a new one then.

    A later version is read by its first four fields, as the standard asks; version ff is never valid.
    """
    if header is None or len(header) > LENGTH_MAX:
        return None
    match = _FORM.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    # Only bit 0 has a meaning in version 00; others are not passed on.
    return Trace(trace_id, span_id, int(flags, 16) & 1)


def _random_hex(count: int) -> str:
    # All zero is not a valid id; the last bit costs no more than asking again would.
    value = bytearray(os.urandom(count))
    value[-1] |= 1
    return value.hex()


def new() -> Trace:
    """A trace that begins here. Not marked as recorded: nothing here records spans."""
    return Trace(_random_hex(16), _random_hex(8), 0)


def child(parent: Trace) -> Trace:
    """A span of the same trace, below `parent`."""
    return Trace(parent.trace_id, _random_hex(8), parent.flags)


def following(header: str | None) -> Trace:
    """What to send on: below the trace that came in, or a new one where none did."""
    parent = parse(header)
    return new() if parent is None else child(parent)
