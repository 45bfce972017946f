"""Events from a file of newline-delimited JSON, one event a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from meterline_schemas.rules import NEWEST_RULES, RULES

_LINE_BYTES_MAX: Final = RULES[NEWEST_RULES].event_bytes_max


def numbered_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes without the line's end) of each line that is not blank.

    A line longer than an event may be comes cut to one byte more than that, so memory stays bounded and the codec
    refuses it as too large.
    """
    number = 0
    while piece := stream.readline(_LINE_BYTES_MAX + 2):
        number += 1
        line = piece.rstrip(b"\r\n")
        ended = piece.endswith(b"\n")
        while not ended and (piece := stream.readline(_LINE_BYTES_MAX)):
            line = line.ljust(_LINE_BYTES_MAX + 1, b" ")[: _LINE_BYTES_MAX + 1] + b"x"
            ended = piece.endswith(b"\n")
        if line.strip():
            yield number, line[: _LINE_BYTES_MAX + 1]
