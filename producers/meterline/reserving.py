"""A held quantity in the caller's hands: settled with what was really used, or released."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

from meterline.answers import Held, Settled
from meterline.calls import Call, Calls, Quantity
from meterline.errors import MeterError

log = logging.getLogger(__name__)

T = TypeVar("T")
Run = Callable[[Call[Any]], Any]
RunAsync = Callable[[Call[Any]], Awaitable[Any]]


class _Reserved:
    """What both kinds of reservation know."""

    def __init__(self, held: Held, calls: Calls) -> None:
        self.held = held
        """The reservation's id, when it expires, and what is left beside it."""
        self.ended = False
        """Settled or released, by this process."""
        self._calls = calls

    def _left_to_expire(self, error: MeterError) -> None:
        """An exception of the caller's own is on its way: it matters more than this one."""
        log.warning(
            "reservation %s was not released (%s); it is held until %s", self.held.reservation_id, error, self.held.expires_at
        )


class Reservation(_Reserved):
    """As a context manager: leaving the block settles the whole quantity if nothing else was said; an exception releases it."""

    def __init__(self, held: Held, calls: Calls, run: Run) -> None:
        super().__init__(held, calls)
        self._run = run

    def settle(
        self,
        quantity: Quantity | None = None,
        *,
        occurred_at: datetime | str | None = None,
        metadata: Mapping[str, Any] | bytes | None = None,
    ) -> Settled:
        """Publishes the usage: `quantity`, or all that was reserved. May be repeated. Raises MeterRefused, MeterUnavailable."""
        settled: Settled = self._run(self._calls.settle(self.held.reservation_id, quantity, occurred_at, metadata))
        self.ended = True
        return settled

    def release(self) -> None:
        """Gives the quantity back: nothing was used. Raises MeterRefused, MeterUnavailable."""
        self._run(self._calls.release(self.held.reservation_id))
        self.ended = True

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.ended:
            return
        if kind is None:
            self.settle()
            return
        try:
            self.release()
        except MeterError as away:
            self._left_to_expire(away)


class AsyncReservation(_Reserved):
    """The same, awaited."""

    def __init__(self, held: Held, calls: Calls, run: RunAsync) -> None:
        super().__init__(held, calls)
        self._run = run

    async def settle(
        self,
        quantity: Quantity | None = None,
        *,
        occurred_at: datetime | str | None = None,
        metadata: Mapping[str, Any] | bytes | None = None,
    ) -> Settled:
        settled: Settled = await self._run(self._calls.settle(self.held.reservation_id, quantity, occurred_at, metadata))
        self.ended = True
        return settled

    async def release(self) -> None:
        await self._run(self._calls.release(self.held.reservation_id))
        self.ended = True


class Reserving:
    """What `AsyncMeter.reserve` returns: `await` it for the reservation, or `async with` it."""

    def __init__(self, reserve: Callable[[], Awaitable[AsyncReservation]]) -> None:
        self._reserve = reserve
        self._reservation: AsyncReservation | None = None

    def __await__(self) -> Generator[Any, None, AsyncReservation]:
        return self._reserve().__await__()

    async def __aenter__(self) -> AsyncReservation:
        self._reservation = await self._reserve()
        return self._reservation

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        reservation = self._reservation
        if reservation is None or reservation.ended:
            return
        if kind is None:
            await reservation.settle()
            return
        try:
            await reservation.release()
        except MeterError as away:
            reservation._left_to_expire(away)
