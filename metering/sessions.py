"""Streaming sessions: what one may become, and what is still to be charged for it. Pure; `now` is passed in.

A session holds credits for a stream whose length nobody knows yet. It ends once:

    active -> finalized    the stream ended: what it used is charged, the rest of the hold goes back
    active -> aborted      it was cut off: what was generated is charged, the rest goes back
    active -> expired      nobody said: the sweeper charges what the last heartbeat reported, the rest goes back
    expired -> finalized   said late: what the sweeper did not charge of it is charged now, for usage is never dropped
    expired -> aborted     the same

A session past its time is active until it is swept: until then its hold stands, and its owner may still end it, or go on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal, assert_never

from metering.credits import Overrun
from metering.rates import Tokens
from meterline_schemas.types import Micros

LIFE_MAX: Final = timedelta(hours=24)
"""No heartbeat prolongs a session beyond this."""


NONE: Final = Tokens()


class SessionState(StrEnum):
    """Closed."""

    ACTIVE = "active"
    FINALIZED = "finalized"
    ABORTED = "aborted"
    EXPIRED = "expired"


Ended = Literal[SessionState.FINALIZED, SessionState.ABORTED]
"""How its owner may end a session."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session was ended: what was said of it, to tell a repeat from another request."""

    state: Ended
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class Session:
    """What the rules look at."""

    created_at: datetime
    expires_at: datetime
    reported: Tokens = NONE
    """Of the heartbeats: the most of each."""
    state: SessionState = SessionState.ACTIVE
    ending: Ending | None = None
    """Of its owner; None while it is active, and where it was swept."""
    late: bool = False
    """It was ended after it had been swept."""


class SessionRefused(Exception):
    """What was asked of the session cannot be. `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def end(session: Session, asked: Ending) -> Session:
    """The ended session; the same one when it was ended so already.

    Raises SessionRefused: it was ended otherwise, and that stands.
    """
    match session.state:
        case SessionState.ACTIVE | SessionState.EXPIRED:
            return replace(session, state=asked.state, ending=asked, late=session.state is SessionState.EXPIRED)
        case SessionState.FINALIZED | SessionState.ABORTED:
            if session.ending == asked:
                return session
            raise SessionRefused(
                f"session_{session.state.value}",
                f"The session was {session.state.value} before, with other figures or in another way, and that stands. "
                "What it was charged is in the details; to take a charge back, have credits allocated.",
            )
        case _:
            assert_never(session.state)


def beat(session: Session, now: datetime, ttl: timedelta, tokens: Tokens) -> Session:
    """The session as a heartbeat leaves it: it lives for `ttl` more. What was reported never becomes less: beats may overtake
    each other.

    Raises SessionRefused: it has ended, or lives too long.
    """
    if session.state is not SessionState.ACTIVE:
        remedy = "stop the stream, then finalize or abort it" if session.state is SessionState.EXPIRED else "stop the stream"
        raise SessionRefused(f"session_{session.state.value}", f"The session is {session.state.value}; {remedy}.")
    ends_at = session.created_at + LIFE_MAX
    if now >= ends_at:
        hours = LIFE_MAX // timedelta(hours=1)
        raise SessionRefused("session_too_old", f"A session lives {hours} hours at most; finalize it, and begin another.")
    until = max(session.expires_at, min(now + ttl, ends_at))
    return replace(session, expires_at=until, reported=most(session.reported, tokens))


def most(one: Tokens, other: Tokens) -> Tokens:
    """The greater of each count."""
    return Tokens(max(one.input, other.input), max(one.output, other.output), max(one.cached, other.cached))


def sweep(session: Session, now: datetime) -> Session:
    """What the sweeper makes of it: an active session past its time is an orphan. At the very instant it is."""
    if session.state is SessionState.ACTIVE and session.expires_at <= now:
        return replace(session, state=SessionState.EXPIRED)
    return session


def still_due(cost: Micros, held: Micros, charged: Micros, overrun: Overrun) -> Micros:
    """What a session that was swept is charged when its owner ends it after all: of its cost, what the sweeper did not charge.

    A sweeper that charged more, by a report that the end contradicts, is not corrected: the report was the owner's.
    """
    owed = min(cost, held) if overrun == "held" else cost
    return Micros(max(0, owed - charged))
