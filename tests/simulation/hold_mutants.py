"""Deliberate bugs of holds, one for each sentence of `docs/exactness.md`, Holds, that somebody might take for caution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Final
from unittest.mock import patch

from metering import holds
from metering.holds import Hold, HoldState
from meterline_schemas.types import Micros
from tests.simulation.hold_world import HoldWorld, Moment, Promise, Transaction

Mutant = AbstractContextManager[object]

_ZERO = Micros(0)


def sum_in_the_statement_that_waits() -> Mutant:
    """The sum is of the moment at which the lock was asked for."""

    def reserving(self: HoldWorld) -> Transaction:
        client, quantity = object(), Micros(self.random.randint(1, 4))
        seen = self.moment()
        try:
            yield from self._locking(client)
            yield from self._grant(seen, quantity)
        finally:
            self._unlock(client)

    return patch.object(HoldWorld, "reserving", reserving)


def no_lock() -> Mutant:
    """Nobody waits for anybody."""

    def at_once(self: HoldWorld, client: object) -> Iterator[None]:
        yield from ()

    return patch.object(HoldWorld, "_locking", at_once)


def settling_without_the_lock() -> Mutant:
    """Settling decides whether the hold had expired while another reserves."""

    def settling(self: HoldWorld, hold_id: int) -> Transaction:
        if hold_id in self.locked_rows:
            return
        self.locked_rows.add(hold_id)
        try:
            settled = self._settled(hold_id)
            yield
            yield
            if settled is not None:
                self._promise(hold_id, settled)
        finally:
            self.locked_rows.discard(hold_id)

    return patch.object(HoldWorld, "settling", settling)


def counters_and_holds_read_apart() -> Mutant:
    """The counters are read by one statement, the holds by the next."""
    right = HoldWorld.moment

    def apart(self: Any) -> Moment:
        used, self.used_before = self.__dict__.get("used_before", self.used), self.used
        return Moment(Micros(used), right(self).held)

    return patch.object(HoldWorld, "moment", apart)


def stored_flip() -> Mutant:
    """A flag says that the hold is over, set when the consumer has committed the record: the fence is somewhat behind."""
    right = HoldWorld.held

    def flip(self: HoldWorld) -> None:
        for hold_id, hold in self.holds.items():
            if hold.position is not None and hold.position.offset < len(self.log[hold.position[:2]]):
                self.flipped.add(hold_id)

    def held(self: HoldWorld, hold_id: int) -> Micros:
        return _ZERO if hold_id in self.flipped else right(self, hold_id)

    return patch.multiple(HoldWorld, flip=flip, held=held)


def ends_at_the_ack() -> Mutant:
    """A hold ends when its record has a position."""
    right = holds.held
    return patch.object(holds, "held", lambda hold, now, fence: _ZERO if hold.position is not None else right(hold, now, fence))


def ends_one_record_early() -> Mutant:
    """A hold ends when the fence stands at its record."""
    right = holds.held

    def early(hold: Hold, now: object, fence: int | None) -> Micros:
        return right(hold, now, None if fence is None else fence + 1)  # type: ignore[arg-type]

    return patch.object(holds, "held", early)


def ends_with_its_time() -> Mutant:
    """A settled hold expires as an open one does."""
    right = holds.held
    return patch.object(holds, "held", lambda hold, now, fence: _ZERO if hold.expired(now) else right(hold, now, fence))


def released_at_the_settlement() -> Mutant:
    """A settled hold holds nothing: its event is on the way."""
    right = holds.held

    def held(hold: Hold, now: Any, fence: int | None) -> Micros:
        return _ZERO if hold.state is HoldState.SETTLED else right(hold, now, fence)

    return patch.object(holds, "held", held)


def relay_forgets() -> Mutant:
    """A row is sent when it was claimed."""
    right = HoldWorld.claim

    def claim(self: HoldWorld, connection: Any, topic: str, rows_max: int) -> object:
        waiting = right(self, connection, topic, rows_max)
        for one in waiting:
            self.outbox[one.id].sent = True
        return waiting

    return patch.object(HoldWorld, "claim", claim)


def past_its_end_left_there() -> Mutant:
    """What stands past its epoch's end is not published again."""

    def never(self: HoldWorld, row: Promise) -> bool:
        return False

    return patch.object(HoldWorld, "lies_past_its_end", never)


def expired_is_not_published() -> Mutant:
    """Settling an expired hold is taken, and its event is dropped."""
    right = HoldWorld._promise

    def promise(self: HoldWorld, hold_id: int, settled: Hold) -> None:
        right(self, hold_id, settled)
        assert settled.settlement is not None
        if settled.settlement.late:
            del self.outbox[max(self.outbox)]

    return patch.object(HoldWorld, "_promise", promise)


MUTANTS: Final[Mapping[str, Callable[[], Mutant]]] = MappingProxyType(
    {
        mutant.__name__: mutant
        for mutant in (
            sum_in_the_statement_that_waits,
            no_lock,
            settling_without_the_lock,
            counters_and_holds_read_apart,
            stored_flip,
            ends_at_the_ack,
            ends_one_record_early,
            ends_with_its_time,
            released_at_the_settlement,
            relay_forgets,
            past_its_end_left_there,
            expired_is_not_published,
        )
    }
)
