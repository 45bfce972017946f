"""What a producer was promised: one line on disk an acknowledgement, which a kill of the producer does not take away."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ACK = struct.Struct("<IIQ")


class Ack(NamedTuple):
    """Record `number` of a producer was acknowledged at this position."""

    number: int
    partition: int
    offset: int


class AckFile:
    """Appends; for one thread. What `flush` has written outlives the process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting: list[bytes] = []

    def add(self, ack: Ack) -> None:
        self._waiting.append(_ACK.pack(*ack))

    def flush(self) -> None:
        if self._waiting:
            os.write(self._file, b"".join(self._waiting))
            self._waiting.clear()


def read_acks(path: Path) -> Iterator[Ack]:
    """What was written; a line that a kill cut off was no promise."""
    if not path.exists():
        return
    whole = path.read_bytes()
    for start in range(0, len(whole) - _ACK.size + 1, _ACK.size):
        yield Ack(*_ACK.unpack_from(whole, start))
