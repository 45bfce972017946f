"""Where usage goes: the port that the routes publish through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from entitlements.models import Position
from meterline_schemas.event import Event
from meterline_schemas.reasons import Reason


@dataclass(frozen=True, slots=True)
class Usage:
    """One event that broke no rule."""

    event: Event
    occurred_at: str | None
    """As it was sent. None: it was absent, and stays so in the log, unless the event is spooled."""
    traceparent: str


class SinkAway(Exception):
    """Neither the log nor the spool can take it. Nothing was kept; the message is for the client."""


class SinkRefused(Exception):
    """The event, as the log would hold it, breaks a rule after all."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class UsageSink(Protocol):
    """Publishes usage without blocking the event loop."""

    async def open(self) -> None:
        """Starts. Does not wait for the broker."""
        ...

    async def publish(self, usage: Usage) -> Position | None:
        """The position after the broker's ack; None when it was spooled instead. Raises SinkAway, SinkRefused.

        Publishing again is safe: the key is the identity.
        """
        ...

    async def problem(self) -> str | None:
        """None when the log takes events, else what is wrong."""
        ...

    async def close(self, within_s: float) -> None:
        """Ends: what was given is acknowledged, spooled, or refused to its caller before this returns."""
        ...
