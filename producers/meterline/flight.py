"""Events that were handed over together, and the answers to them as they arrive."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from meterline.errors import EmitError
from meterline.receipts import Position, Receipt
from meterline.spool import SpooledRecord
from meterline_schemas.draft import EncodedEvent
from meterline_schemas.event import SCHEMA_VERSION_HEADER, Invalid, decode
from meterline_schemas.instants import format_instant
from meterline_schemas.rules import NEWEST_RULES, RULES

SCHEMA_VERSION: Final = max(RULES[NEWEST_RULES].schema_versions)
TRACEPARENT_HEADER: Final = "traceparent"
_SCHEMA_HEADER: Final = (SCHEMA_VERSION_HEADER, b"%d" % SCHEMA_VERSION)

Answer = Position | Receipt | EmitError
"""A position: the log acknowledged it. A receipt: it was spooled. An error: neither."""


class _Dated(msgspec.Struct, rename="camel"):
    """All that an `Event` does not tell: whether its time was sent."""

    occurred_at: str | msgspec.UnsetType = msgspec.UNSET


_DATED: Final = msgspec.json.Decoder(_Dated)


class Flight:
    """A list of events and a list of answers, and who is told when the last one came.

    One object for all, because a batch of a thousand would otherwise cost a thousand futures, locks and hand-overs.
    """

    __slots__ = ("answers", "emitted_ms", "events", "headers", "number", "on_done", "open")

    def __init__(
        self,
        number: int,
        events: Sequence[EncodedEvent],
        headers: list[tuple[str, bytes]],
        emitted_ms: int,
        on_done: Callable[[list[Answer]], None],
    ) -> None:
        """`on_done` is called once, in whatever thread the last answer comes; it must neither block nor raise."""
        self.number = number
        self.events = events
        self.headers = headers
        self.emitted_ms = emitted_ms
        self.on_done = on_done
        self.open = len(events)
        self.answers: list[Answer | None] = [None] * len(events)

    def spooled(self, index: int) -> SpooledRecord:
        """An event as it goes to disk. It may reach the log much later, so the time of emitting is written down, if none was."""
        encoded = self.events[index]
        return SpooledRecord(encoded.event.key, dated(encoded.value, self.emitted_ms), self.headers)


class Flights:
    """Those that wait for answers. Thread-safe."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._open: set[Flight] = set()
        self._answered = threading.Condition()

    def begin(
        self,
        events: Sequence[EncodedEvent],
        traceparent: str | None,
        emitted_ms: int,
        on_done: Callable[[list[Answer]], None],
    ) -> Flight:
        """A flight that is not answered yet. One without events never is."""
        headers = [_SCHEMA_HEADER] if traceparent is None else [_SCHEMA_HEADER, (TRACEPARENT_HEADER, traceparent.encode())]
        flight = Flight(next(self._numbers), events, headers, emitted_ms, on_done)
        if events:
            with self._answered:
                self._open.add(flight)
        return flight

    def answer(self, flight: Flight, index: int, answer: Answer) -> None:
        """Of one event, once; tells the flight's owner when it was the last that was missing."""
        with self._answered:
            assert flight.answers[index] is None, "an event is answered once"
            flight.answers[index] = answer
            flight.open -= 1
            if flight.open:
                return
            self._land(flight)
        flight.on_done([answer for answer in flight.answers if answer is not None])

    def drop(self, flight: Flight) -> None:
        """Nobody waits for it."""
        with self._answered:
            self._land(flight)

    def wait(self, timeout_s: float) -> int:
        """Waits until every event has its answer, at most so long; returns how many have none."""
        with self._answered:
            self._answered.wait_for(lambda: not self._open, timeout=timeout_s)
            return sum(flight.open for flight in self._open)

    def any(self) -> bool:
        """Whether some are open."""
        return bool(self._open)

    def _land(self, flight: Flight) -> None:
        self._open.discard(flight)
        if not self._open:
            self._answered.notify_all()


def as_receipt(encoded: EncodedEvent, answer: Answer) -> Receipt | EmitError:
    """An answer as `emit` gives it."""
    return Receipt("acked", encoded.event.key, answer) if isinstance(answer, Position) else answer


def dated(value: bytes, emitted_ms: int) -> bytes:
    """The value of a valid event with the time of emitting, if it says none itself.

    Put in at the front, so that every other byte stays as the sender wrote it. What would grow beyond an event's size
    stays as it is, and gets the time at which the log takes it.
    """
    if _DATED.decode(value).occurred_at is not msgspec.UNSET:
        return value
    start = value.index(b"{") + 1
    longer = b'%b"occurredAt":"%b",%b' % (value[:start], format_instant(emitted_ms).encode(), value[start:])
    return value if isinstance(decode(longer, None, emitted_ms, RULES[NEWEST_RULES]), Invalid) else longer
