"""What a producer answers for an event that it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Position(NamedTuple):
    """Where the log put the record."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """The record's time as the broker answered it: the ingest time where the topic stamps on append."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """`acked`: the broker wrote the event to every replica in sync, at `position`.

    `spooled`: it lies on this machine's disk and will be sent; the log does not have it yet, so it has no position.
    """

    state: Literal["acked", "spooled"]
    key: bytes
    position: Position | None
