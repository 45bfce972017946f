"""Exports to Stripe: what is sent, when, and what becomes of it. Pure; `now` is passed in.

A ledger row is one absolute running total of (tenant, meter, period). Its payload never changes; a newer total is a new
revision. The arrows are in MOVES; the database refuses every other one, and any change of a payload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Context, Decimal, DivisionByZero, Inexact, InvalidOperation
from typing import Literal, TypeAlias, assert_never

from metering.periods import Period

State = Literal[
    "planned",
    "sending",
    "accepted",
    "retry_wait",
    "ambiguous",
    "confirmed",
    "closed",
    "rejected",
    "superseded",
    "manual",
    "carry_forward",
]

MOVES: Mapping[State, frozenset[State]] = {
    "planned": frozenset({"sending", "superseded", "manual"}),
    # to itself: a sender whose lease ran out is followed by another one, with the same identifier and body
    "sending": frozenset({"sending", "accepted", "retry_wait", "rejected", "ambiguous"}),
    "retry_wait": frozenset({"sending", "ambiguous", "superseded"}),
    "ambiguous": frozenset({"accepted", "superseded", "manual"}),
    "accepted": frozenset({"confirmed", "closed", "superseded", "manual"}),
    "confirmed": frozenset({"closed", "superseded", "manual"}),
    "rejected": frozenset({"superseded"}),
    # by a person, with a name and a reason beside it
    "manual": frozenset({"superseded", "accepted", "closed"}),
    "closed": frozenset({"carry_forward"}),
    # an invoice that was final before a newer revision came billed the older one
    "superseded": frozenset({"closed"}),
    "carry_forward": frozenset(),
}

RESEND_WITHIN = timedelta(hours=23)
"""Stripe knows an identifier for at least 24 h; a resend after this could count twice where it adds up."""

EVENT_AGE_MAX = timedelta(days=34)
"""Stripe refuses timestamps over 35 days old; a day is left for clocks and for the way."""

AHEAD_MAX = timedelta(minutes=4)
"""Stripe takes timestamps up to 5 minutes ahead."""

FINAL_REVISIONS = timedelta(seconds=60)
"""The end of a period that only revisions made after it may use: one second each."""

SETTLED_AFTER = timedelta(hours=1)
"""How long a summary may lag behind what Stripe has taken."""

VALUE_MAX = 999_999_999_999_999
"""Stripe refuses more than 15 digits."""

RETRY_FIRST_S, RETRY_MOST_S = 0.5, 900.0

_EXACT = Context(prec=100, traps=[Inexact, DivisionByZero, InvalidOperation])
_LONG = Context(prec=60, traps=[DivisionByZero, InvalidOperation])
_SECOND = timedelta(seconds=1)

Positions: TypeAlias = "Mapping[str, int]"
"""'epoch:partition' to the next offset that is not counted."""


class TooLarge(ValueError):
    """The value has more than 15 digits. Remedy: a smaller scale of the meter, from the next period on."""


@dataclass(frozen=True)
class Units:
    """What is sent for an exact total, and what is left over: total x scale + carried = value + remainder."""

    value: int
    remainder: Decimal


NOTHING_CARRIED = Decimal(0)


def units(total: Decimal, scale: int, carried: Decimal = NOTHING_CARRIED) -> Units:
    """floor(total x scale + carried); what is negative sends 0 and is carried whole. Raises TooLarge.

    `carried` is the remainder of the period before, in units of the meter: no fraction is ever lost, nor billed twice.
    """
    scaled = _EXACT.add(_EXACT.multiply(total, Decimal(scale)), carried)
    value = max(0, int(scaled.to_integral_value(ROUND_FLOOR)))
    if value > VALUE_MAX:
        raise TooLarge(f"{value} has more than 15 digits: give the meter a smaller scale than {scale}")
    return Units(value, _EXACT.subtract(scaled, Decimal(value)))


def left_after(total: Decimal, scale: int, carried: Decimal, told: int) -> Decimal:
    """What is left for the next period where an invoice billed `told` units, whatever the total would have made."""
    return _EXACT.subtract(_EXACT.add(_EXACT.multiply(total, Decimal(scale)), carried), Decimal(told))


def rescaled(remainder: Decimal, old: int, new: int) -> Decimal:
    """A remainder in units of a meter whose scale was changed; off by less than 10^-30 where that is no finite decimal."""
    return remainder if old == new else _LONG.divide(_LONG.multiply(remainder, Decimal(new)), Decimal(old))


def quantity_of(value: int, scale: int) -> Decimal | None:
    """value / scale where that is a finite decimal, as it is for every power of ten."""
    try:
        return _EXACT.divide(Decimal(value), Decimal(scale))
    except Inexact:
        return None


def plain(value: Decimal) -> str:
    """A decimal as people and programs read it: no exponent, no zeros at the end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def identifier(account: str, livemode: bool, tenant_id: str, meter: str, period_start: str, revision: int, value: int) -> str:
    """Stripe's name for the event: a hash over all that makes it, each part with its length before it."""
    parts = (account, "live" if livemode else "test", tenant_id, meter, period_start, str(revision), str(value))
    text = b"".join(b"%d:%s," % (len(part.encode()), part.encode()) for part in parts)
    return "ml1_" + hashlib.sha256(text).hexdigest()


def dominates(newer: Positions, older: Positions) -> bool:
    """Whether nothing that `older` counts is missing from `newer`."""
    return all(newer.get(place, -1) >= offset for place, offset in older.items())


def event_time(period: Period, now: datetime, newest: datetime | None) -> datetime | str:
    """The timestamp of the next event of a (customer, meter) in a period, or why there is none.

    Within a period each is later than the one before, so the newest revision is what a `last` meter shows. While the
    period runs it is `now`; afterwards it is one of the last 60 seconds, which are kept for that.
    """
    if now < period.starts_at:
        return f"the period begins on {period.start}"
    if now >= period.ends_at:
        at, latest = period.ends_at - FINAL_REVISIONS, period.ends_at - _SECOND
    else:
        latest = period.ends_at - FINAL_REVISIONS - _SECOND
        at = min(now.replace(microsecond=0), latest)
    if newest is not None:
        at = max(at, newest + _SECOND)
    if at > latest:
        return "no second of the period is left for another revision" if now >= period.ends_at else "wait for the period's end"
    if at > now + AHEAD_MAX:
        return "too many revisions within minutes: the next timestamp would lie too far ahead"
    return at


# -- planning ------------------------------------------------------------------------------------------------------


Mode = Literal["last", "sum"]
"""What a revision tells Stripe: the period's running total, or what was added since the revision before it."""


@dataclass(frozen=True)
class Latest:
    """The newest revision of a (tenant, meter, period), as far as planning needs it."""

    revision: int
    state: State
    customer_id: str
    value: int
    positions: Positions
    sent: bool
    """Whether a call was ever begun."""
    billed_to: str | None
    """The customer that any revision of the period may have reached."""
    told: int = 0
    """What Stripe shows by the revisions that it took: the newest value, or under `sum` all of them added up."""


@dataclass(frozen=True)
class Wanted:
    """What the counters say now."""

    customer_id: str
    total: Decimal
    value: int
    """Of the whole period, under `sum` too."""
    positions: Positions
    mode: Mode = "last"


Action = Literal["insert", "supersede", "keep", "wait", "hold", "nothing"]


@dataclass(frozen=True)
class Decision:
    """insert: a new revision. supersede: the same, in place of one that was never sent. keep: the newest revision says
    it already. wait: it is in flight. hold: a person must look. nothing: there is nothing to bill."""

    action: Action
    reason: str = ""


def decide(latest: Latest | None, wanted: Wanted) -> Decision:
    """What planning does with a (tenant, meter, period)."""
    if latest is None:
        return Decision("insert") if wanted.total != 0 else Decision("nothing", "no usage")
    shown = latest.told if wanted.mode == "sum" else latest.value
    if wanted.mode == "sum" and latest.state == "planned":
        shown += latest.value
    same = shown == wanted.value and latest.customer_id == wanted.customer_id
    if latest.state == "closed" or latest.state == "carry_forward":
        return Decision("keep" if same else "hold", "" if same else "the period is closed: the change belongs to the next one")
    if latest.billed_to is not None and latest.billed_to != wanted.customer_id:
        return Decision(
            "hold", f"the period was billed to {latest.billed_to}, and the tenant's customer is now {wanted.customer_id}"
        )
    if not dominates(wanted.positions, latest.positions):
        return Decision("hold", "the counters stand behind the last export: was Postgres restored? run `meterline reconcile`")
    match latest.state:
        case "sending" | "ambiguous":
            return Decision("wait", "in flight")
        case "retry_wait":
            return Decision("wait", "waits for its next try")
        case "planned":
            return Decision("keep") if same else Decision("supersede")
        case "manual":
            if latest.sent or same:
                return Decision("hold", "waits for a person")
            return Decision("supersede")
        case "rejected":
            return Decision("hold", "Stripe refused it") if same else Decision("insert")
        case "accepted" | "confirmed":
            return Decision("keep") if same else Decision("insert")
        case "superseded":
            return Decision("insert")
        case _:
            assert_never(latest.state)


# -- sending -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delivered:
    """Stripe has the event; `duplicate` when an earlier try of ours had brought it."""

    duplicate: bool = False


@dataclass(frozen=True)
class Unclear:
    """Stripe may or may not have it: no answer, 429, 409, 5xx. Repeat it unchanged."""

    reason: str
    after_s: float = 0.0


@dataclass(frozen=True)
class Refused:
    """Stripe does not want this event, and a repeat changes nothing."""

    reason: str


@dataclass(frozen=True)
class Halted:
    """Stripe does not want us: the key is wrong. Nothing more is sent in this run."""

    reason: str


Outcome = Delivered | Unclear | Refused | Halted


@dataclass(frozen=True)
class Step:
    """Where a row goes."""

    state: State
    reason: str = ""
    next_try_at: datetime | None = None


def before_send(state: State, first_sent_at: datetime | None, event_at: datetime, now: datetime) -> Step:
    """Whether a claimed row may be sent: `sending` if so.

    One that was sent before and is too old to repeat safely is ambiguous; one that never was and is too old for Stripe
    needs a person.
    """
    too_old = now - event_at > EVENT_AGE_MAX
    if first_sent_at is None:
        if too_old:
            return Step(
                "manual", f"too_old: {event_at:%Y-%m-%d %H:%M:%S} UTC is over {EVENT_AGE_MAX.days} days ago, Stripe refuses it"
            )
        return Step("sending")
    if too_old or now - first_sent_at >= RESEND_WITHIN:
        return Step("ambiguous", f"{state} since {first_sent_at:%Y-%m-%d %H:%M:%S} UTC: too old to repeat, the summary will tell")
    return Step("sending")


def after_send(outcome: Outcome, attempts: int, first_sent_at: datetime, now: datetime, spread: float = 1.0) -> Step:
    """Where the answer takes a row. `attempts` counts this one; `spread` in [0, 1] scatters the waits of many rows.

    A refusal after an earlier try without a clear end does not prove that the earlier one failed: it is ambiguous.
    """
    match outcome:
        case Delivered(duplicate=duplicate):
            return Step("accepted", "an earlier try had brought it" if duplicate else "")
        case Refused(reason=reason):
            return Step("rejected", reason) if attempts <= 1 else Step("ambiguous", f"refused after an unclear try: {reason}")
        case Unclear(reason=reason) | Halted(reason=reason):
            if now - first_sent_at >= RESEND_WITHIN:
                return Step("ambiguous", reason)
            if isinstance(outcome, Halted):
                return Step("retry_wait", reason, now)
            wait_s = min(RETRY_FIRST_S * 2 ** min(attempts - 1, 20), RETRY_MOST_S) * (0.5 + spread / 2)
            return Step("retry_wait", reason, now + timedelta(seconds=max(wait_s, min(outcome.after_s, RETRY_MOST_S))))
        case _:
            assert_never(outcome)


# -- reconciling ---------------------------------------------------------------------------------------------------


def after_summary(
    state: Literal["accepted", "confirmed", "ambiguous"],
    value: int,
    older: Collection[int],
    found: int | None,
    since: datetime,
    now: datetime,
    mode: Mode = "last",
) -> Step:
    """What Stripe's summary of the period says about the newest revision.

    `value` is what the summary should be, `older` what it may be without this revision (0 where there is none), `since` when the
    row came to its state. A summary without events and one of 0 say the same. Under `last` a total that never came through
    is planned again, which is harmless at any age; under `sum` nothing that may have arrived is sent again.
    """
    shown = found or 0
    settled = now - since >= SETTLED_AFTER
    if shown == value:
        return Step("accepted", "the summary shows it") if state == "ambiguous" else Step("confirmed")
    if state == "confirmed":
        return Step(state, f"drift: the summary shows {shown}, expected {value}")
    if not settled:
        words = f"the summary shows {shown}; it may lag" if state == "ambiguous" else f"waiting: the summary shows {shown}"
        return Step(state, words if state == "ambiguous" else f"{words}, expected {value}")
    if shown in older:
        if mode == "sum":
            return Step("manual", f"the summary shows {shown}: it seems never to have arrived; a second sending could add up")
        return Step("superseded", f"the summary shows {shown}: it never {'arrived' if state == 'ambiguous' else 'counted'}")
    if state == "ambiguous":
        return Step("manual", f"the summary shows {shown}, which is neither {value} nor what was there before it")
    return Step("manual", f"drift: the summary shows {shown}, expected {value}")
