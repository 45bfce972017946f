"""Reservations: what a hold may become, and how much of it counts as held. Pure; `now` is passed in.

A hold stands for usage that the counters do not show yet. It ends when it is given back, when its time is over, or, once
settled, when the fence passes the record of its settlement: in the statement that sees the counters grow, and in no other.
So at every moment what is counted and what is held are together at least what was settled.

    open -> settled      the usage happened; its event is on the way to the log
    open -> released     it did not happen
    open -> expired      nobody said; swept after its time, and no longer held from that time on, swept or not
    expired -> settled   it happened after all: the event is published, for usage is never dropped, and the answer says so
    expired -> released  said late; nothing was held any more
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple, assert_never

from metering.ranges import Claim
from meterline_schemas.event import Event, claim_of
from meterline_schemas.types import Micros

ZERO = Micros(0)


class HoldState(StrEnum):
    """Closed. Expired is written by the sweeper; a hold past its time holds nothing before it, too."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


Verdict = Literal["admitted", "duplicate", "conflict", "invalid"]


class LogPosition(NamedTuple):
    """Where an acknowledged record of a settlement stands."""

    epoch: int
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What was used. Fixed by the first settling for ever."""

    quantity: Micros
    occurred_at: datetime
    digest: bytes
    """Of the request, so that a repeat is told from another one."""
    late: bool = False
    """The hold had expired: others may have been granted what it held."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A reservation of one tenant's usage type."""

    quantity: Micros
    expires_at: datetime
    state: HoldState = HoldState.OPEN
    settlement: Settlement | None = None
    position: LogPosition | None = None

    def expired(self, now: datetime) -> bool:
        """Whether its time is over. At the very instant it is."""
        return self.expires_at <= now


class HoldRefused(Exception):
    """What was asked of the hold cannot be any more. `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def held(hold: Hold, now: datetime, next_offset: int | None) -> Micros:
    """How much of the limit it takes. `next_offset` is the fence at its position's (epoch, partition), if it has one.

    To be asked in the view that the counters are read in.
    """
    match hold.state:
        case HoldState.OPEN:
            return ZERO if hold.expired(now) else hold.quantity
        case HoldState.SETTLED:
            assert hold.settlement is not None
            counted = hold.position is not None and next_offset is not None and hold.position.offset < next_offset
            return ZERO if counted else hold.settlement.quantity
        case HoldState.RELEASED | HoldState.EXPIRED:
            return ZERO
        case _:
            assert_never(hold.state)


def settle(hold: Hold, asked: Settlement, now: datetime) -> Hold:
    """The settled hold; the same hold when it is settled already by the same request.

    Raises HoldRefused: it was released, or settled as something else.
    """
    match hold.state:
        case HoldState.OPEN | HoldState.EXPIRED:
            late = hold.state is HoldState.EXPIRED or hold.expired(now)
            return replace(hold, state=HoldState.SETTLED, settlement=replace(asked, late=late))
        case HoldState.SETTLED:
            assert hold.settlement is not None
            if hold.settlement.digest == asked.digest:
                return hold
            raise HoldRefused(
                "already_settled", "The reservation is settled with another body; to change what was used, record a correction."
            )
        case HoldState.RELEASED:
            raise HoldRefused("already_released", "The reservation was released; record what was used all the same as usage.")
        case _:
            assert_never(hold.state)


def release(hold: Hold) -> Hold:
    """The released hold; the same one when it is released already. Raises HoldRefused: it is settled."""
    if hold.state is HoldState.SETTLED:
        raise HoldRefused("already_settled", "The reservation is settled; to take usage back, record a correction.")
    return replace(hold, state=HoldState.RELEASED)


def sweep(hold: Hold, now: datetime) -> Hold:
    """What the sweeper makes of it: an open hold past its time is an orphan."""
    if hold.state is HoldState.OPEN and hold.expired(now):
        return replace(hold, state=HoldState.EXPIRED)
    return hold


def lies_past(position: LogPosition, end: int | None) -> bool:
    """Whether the record gets no verdict where it stands, for its epoch has ended at `end`: it has to be sent again."""
    return end is not None and position.offset >= end


def verdict_of(position: LogPosition, event: Event, row_hash: int, admitted: Claim | None, rejected: bool) -> Verdict | None:
    """What became of a settlement's event, once the fence has passed `position`; None when that is not to be seen yet.

    `admitted` is the row of its key; `rejected`: a reject stands at `position`. A record may have been published more than
    once, and then its first copy is the admitted one: it is known by its bytes.
    """
    if admitted is None:
        return "invalid" if rejected else None
    if (admitted.epoch, admitted.partition, admitted.offset) == position or admitted.row_hash == row_hash:
        return "admitted"
    same = (admitted.tenant_id, admitted.quantity, admitted.kind, admitted.corrects) == tuple(claim_of(event))
    return "duplicate" if same else "conflict"
