"""A sink in memory: acknowledges in order, or does what a test tells it to."""

from __future__ import annotations

from collections.abc import Sequence

from entitlements.models import Position
from entitlements.sink import Published, SinkAway
from meterline_schemas.draft import EncodedEvent


class MemorySink:
    """Keeps what it is given. `away`: neither log nor spool; `spooling`: the log is away and the spool takes it."""

    def __init__(self) -> None:
        self.taken: list[EncodedEvent] = []
        self.away = False
        self.spooling = False
        self.closed = False

    async def open(self) -> None:
        pass

    async def publish(self, events: Sequence[EncodedEvent], traceparent: str) -> list[Published]:
        return [self._published(event) for event in events]

    def _published(self, event: EncodedEvent) -> Published:
        if self.away:
            return SinkAway("Neither the log nor the spool took the event; send it again.")
        self.taken.append(event)
        return None if self.spooling else Position(1, 0, len(self.taken) - 1)

    async def problem(self) -> str | None:
        return "the brokers do not answer" if self.away or self.spooling else None

    async def close(self, within_s: float) -> None:
        self.closed = True
