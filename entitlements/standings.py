"""How tenants stand, read from Postgres: one statement for all who ask at the same time.

A request that finds no statement under way starts one at once. While it runs, what arrives waits and goes into the next
one together: alone a check waits for nothing, and under load the number of statements grows slower than the requests. Where
many wait, half of them go at a time, so that Postgres and this process work beside each other and not in turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from entitlements.queries import statement
from entitlements.store import Store, StoreAway
from metering import periods
from metering.grants import Grant, added
from metering.limits import Credits, Limit, Standing, is_active
from metering.periods import PeriodKind
from meterline_schemas.types import Micros
from runtime import metrics

TOGETHER_MAX = 64
"""Most checks that one statement answers for others."""
STATEMENTS_MAX = 1
"""Most statements under way for single checks. A second would halve how many share one, and each statement costs as much as
ten of the rows that it answers."""
GATHER_TURNS = 4
"""Turns of the event loop between the first who asks and the statement: what the sockets hold already is read in them and
comes along. Alone they pass in microseconds; without them every other statement answers one or two of those who ask."""
HALVED_FROM = 12
"""From so many who wait, a statement takes half of them: while Postgres looks one half up, this process answers the other.
Fewer than that in two statements cost more than the waiting."""
WAITING_MAX = 10_000
"""More waiting checks than this are refused with 503: they would be answered too late to matter."""


class Ask(NamedTuple):
    """What a check asks about: a usage type, or a feature alone."""

    tenant_id: str
    usage_type: str | None
    feature: str | None = None
    user_id: str | None = None
    """Whose credits would pay."""


class Found(NamedTuple):
    """How it stands, and when its period ends."""

    standing: Standing
    resets_on: str | None
    """The first day of the next period, YYYY-MM-DD; None where nothing resets."""


def array(texts: Iterable[str | None]) -> str:
    """A Postgres array as its text, which is made several times as fast as psycopg makes it of a list."""
    return "{" + ",".join(["NULL" if text is None else f'"{text.translate(_ESCAPED)}"' for text in texts]) + "}"


_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"'})


@dataclass(frozen=True)
class Windows:
    """The running periods of one day, as the statement wants them."""

    on: date
    parameters: dict[str, Any]

    @classmethod
    def of(cls, on: date) -> Windows:
        day, month = periods.day(on), periods.month(on)
        # Index 1 is anchor day 1, as in SQL's arrays.
        billing = [periods.billing_period(on, anchor_day) for anchor_day in range(1, 32)]
        return cls(
            on,
            {
                "day_start": day.start,
                "day_end": day.end,
                "month_start": month.start,
                "month_end": month.end,
                "billing_starts": array(period.start.isoformat() for period in billing),
                "billing_ends": array(period.end.isoformat() for period in billing),
            },
        )


class Standings:
    """Reads them. For one event loop."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._now = now
        self._sql = statement("standings")
        self._windows = Windows.of(now().date())
        self._waiting: deque[tuple[Ask, asyncio.Future[Found]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def one(self, ask: Ask) -> Found:
        """How it stands. Raises StoreAway, after twice the store's time limit at the latest.

        No timer of its own: a statement has its limit, and where one fails, all who wait are told with it.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise StoreAway("Too many checks wait for Postgres; nothing was decided. Try again shortly.")
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if len(self._workers) < STATEMENTS_MAX:
            self._workers.add(asyncio.create_task(self._work()))
        return await future

    async def many(self, asks: Sequence[Ask]) -> list[Found]:
        """How they stand, in their order and at one moment. Raises StoreAway."""
        metrics.CHECKS_TOGETHER.observe(len(asks))
        windows = self._running()
        rows = await self._store.rows("standings", self._sql, parameters(asks, windows))
        return [found(row, windows.on) for row in rows]

    async def within(self, connection: AsyncConnection[Any], ask: Ask) -> Found:
        """How it stands, read by a statement of the caller's transaction. Raises psycopg.Error."""
        windows = self._running()
        cursor = await connection.execute(self._sql, parameters([ask], windows), prepare=True)
        (row,) = await cursor.fetchall()
        return found(row, windows.on)

    def _running(self) -> Windows:
        today = self._now().date()
        if self._windows.on != today:
            self._windows = Windows.of(today)
        return self._windows

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        try:
            await self._answer_all()
        finally:
            # In the same step in which nothing waited: a request that came between the two would be nobody's.
            self._workers.discard(worker)

    async def _answer_all(self) -> None:
        count = TOGETHER_MAX
        while self._waiting:
            for _ in range(GATHER_TURNS):
                # As many as the last statement answered: the other half is here, and waits for no more.
                if len(self._waiting) >= count:
                    break
                await asyncio.sleep(0)
            waiting = len(self._waiting)
            count = min(TOGETHER_MAX, waiting if waiting < HALVED_FROM else (waiting + 1) // 2)
            together = [self._waiting.popleft() for _ in range(count)]
            try:
                answers = await self.many([ask for ask, _ in together])
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to everyone who waits for this statement
                if isinstance(error, StoreAway):
                    # Behind a server that hangs, each later statement would take its own time limit.
                    together += self._waiting
                    self._waiting.clear()
                for _, future in together:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), standing in zip(together, answers, strict=True):
                if not future.done():
                    future.set_result(standing)


def parameters(asks: Sequence[Ask], windows: Windows) -> dict[str, Any]:
    """What the statement is run with; `found` reads its rows."""
    return {
        "tenants": array(ask.tenant_id for ask in asks),
        "types": array(ask.usage_type for ask in asks),
        "features": array(ask.feature for ask in asks),
        "users": array(ask.user_id for ask in asks),
        **windows.parameters,
    }


def found(row: tuple[Any, ...], on: date) -> Found:
    """A row of the statement, which was run with the periods of the day `on`."""
    known, has_plan, status, subscription, feature_enabled, in_plan, limit_micros, hard, used_micros, resets_on = row[:10]
    held_micros, when_unavailable, price, balance_micros, period, anchor_day, grants, used_by_day = row[10:]
    limit = Limit(None if limit_micros is None else Micros(int(limit_micros)), hard, when_unavailable) if in_plan else None
    if grants is not None and limit is not None and limit.quantity is not None:
        limit = replace(
            limit, quantity=Micros(limit.quantity + added_by_grants(limit.quantity, period, anchor_day, grants, used_by_day, on))
        )
    standing = Standing(
        known,
        has_plan,
        is_active(status, subscription),
        limit,
        feature_enabled,
        Micros(int(used_micros or 0)),
        Micros(int(held_micros or 0)),
        None if price is None else Credits(int(price), Micros(int(balance_micros or 0))),
    )
    return Found(standing, resets_on)


def added_by_grants(
    limit: Micros, period: PeriodKind, anchor_day: int, grants: list[list[str]], used_by_day: list[list[str]] | None, on: date
) -> Micros:
    """What the grants add to a limit, from the JSON of a statement: [micros, from, until] each, and [day, micros] each."""
    return added(
        limit,
        period,
        anchor_day,
        [Grant(Micros(int(micros)), date.fromisoformat(since), date.fromisoformat(until)) for micros, since, until in grants],
        {date.fromisoformat(day): Micros(int(micros)) for day, micros in used_by_day or ()},
        on,
    )
