"""Where usage goes: the port that the routes publish through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from entitlements.models import Position
from meterline_schemas.draft import EncodedEvent


class SinkAway(Exception):
    """Neither the log nor the spool can take it. Nothing was kept; the message is for the client."""


Published = Position | None | SinkAway
"""The position after the broker's ack; None: it was spooled instead; SinkAway: it was not kept."""


class UsageSink(Protocol):
    """Publishes usage without blocking the event loop."""

    async def open(self) -> None:
        """Starts. Does not wait for the broker."""
        ...

    async def publish(self, events: Sequence[EncodedEvent], traceparent: str) -> list[Published]:
        """What became of each, in their order, when all of it is known. Raises SinkAway, StoreAway: of all of them nothing.

        The bytes go to the log as they are. Publishing again is safe: the key is the identity.
        """
        ...

    async def problem(self) -> str | None:
        """None when the log takes events, else what is wrong."""
        ...

    async def close(self, within_s: float) -> None:
        """Ends: what was given is acknowledged, spooled, or refused to its caller before this returns."""
        ...
