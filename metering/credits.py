"""Credits: which lots pay, what a balance is at a time, and where credits go back to. In millionths, exact.

Credits come in lots, each with its own expiry. They only ever move between the places of one account, and a move has two
sides, so nothing is made or lost but by `issued`. A move names the lot whose credits it moves; one without a lot moves what the
account owes beyond its lots, where it may owe at all.

- Oldest expiry pays first, then the oldest lot; what never expires pays last, and after that debt, as far as the account may owe.
- From the instant on that a lot expires, what is available of it is no credit any more, whether or not that is written down yet.
- Held credits stay good until their hold ends, though their lot expires meanwhile: the work began in time. Given back after
  that, they expire at once.
- Given back credits return to the lots that they were taken from, after they have paid what the account owes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

from meterline_schemas.types import Micros

Place = Literal["issued", "available", "held", "spent", "expired", "removed", "owed"]

MOVES: Final[frozenset[tuple[Place, Place]]] = frozenset(
    {
        ("issued", "available"),
        ("issued", "owed"),
        ("available", "held"),
        ("available", "spent"),
        ("available", "expired"),
        ("available", "removed"),
        ("available", "owed"),
        ("held", "spent"),
        ("held", "available"),
        ("held", "expired"),
        ("held", "owed"),
        ("owed", "held"),
        ("owed", "spent"),
        ("owed", "available"),
    }
)
"""Every move that there is, from and to; the database knows no other either."""

Overrun = Literal["held", "balance"]
"""What pays for more than was held: nothing (`held`: the hold is the most), or the balance, as far as it reaches."""

AMOUNT_MAX: Final = Micros(10**18 - 1)
"""The most that one operation moves: 12 digits before the point."""
LOTS_MAX: Final = 1_000
"""Lots with credits left that one account may have."""
NEW_LOT: Final = -1
"""In a move: the lot that the operation makes."""
ZERO: Final = Micros(0)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Lot:
    """What is available of a lot. Ids rise with age."""

    lot_id: int
    available: Micros
    expires_at: datetime | None = None
    """From this instant on it is gone; None never expires."""

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class Part:
    """What a hold has taken from a lot; without a lot, from what the account may owe."""

    lot_id: int | None
    amount: Micros
    expires_at: datetime | None = None
    """Of the lot."""

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class Account:
    """How an account stands. What is held is not in here: it comes back, or is spent, part by part."""

    lots: tuple[Lot, ...] = ()
    """Those with credits left, in any order."""
    owed: Micros = ZERO
    overdraft: Micros = ZERO
    """How much it may owe."""


@dataclass(frozen=True, slots=True)
class Move:
    """So much from one place to another."""

    source: Place
    target: Place
    amount: Micros
    lot_id: int | None


@dataclass(frozen=True, slots=True)
class Settled:
    """The end of a hold."""

    moves: tuple[Move, ...]
    charged: Micros
    refunded: Micros
    """Back in the balance. What came back to expired lots is not in it."""
    shortfall: Micros
    """Asked for, and paid by nobody."""


class Insufficient(Exception):
    """The account does not have that much to spend."""

    code: Final = "insufficient_credits"

    def __init__(self, asked: Micros, spendable: Micros) -> None:
        super().__init__("The credits do not pay for this; allocate more, or ask for less.")
        self.asked = asked
        self.spendable = spendable


def balance(account: Account, now: datetime) -> Micros:
    """What the account has, less what it owes; negative where it owes."""
    return Micros(sum(lot.available for lot in account.lots if not lot.expired(now)) - account.owed)


def spendable(account: Account, now: datetime) -> Micros:
    """The balance, and what the account may owe beyond it."""
    return Micros(balance(account, now) + account.overdraft)


def in_order(lots: Iterable[Lot]) -> list[Lot]:
    """The lots in the order in which they pay."""
    return sorted(lots, key=_order)


def gain(moves: Iterable[Move]) -> int:
    """What the moves add to the balance."""
    inside = ("available", "owed")
    return sum(move.amount * ((move.target in inside) - (move.source in inside)) for move in moves)


def expire(account: Account, now: datetime) -> tuple[Account, tuple[Move, ...]]:
    """The account without the lots that have expired, and the moves that write it down. Everything below wants it so."""
    due = in_order(lot for lot in account.lots if lot.expired(now))
    live = tuple(lot for lot in account.lots if not lot.expired(now))
    return replace(account, lots=live), tuple(Move("available", "expired", lot.available, lot.lot_id) for lot in due)


def take(account: Account, amount: Micros, to: Literal["held", "spent"]) -> tuple[Move, ...]:
    """The moves that hold or spend the amount. Raises Insufficient: it is all or nothing."""
    assert amount >= 0, "what is taken is not negative"
    has = sum(lot.available for lot in account.lots)
    may_owe = account.overdraft - account.owed
    if amount > has + may_owe:
        raise Insufficient(amount, Micros(has + may_owe))
    moves = _from_lots(account.lots, min(amount, Micros(has)), to)
    if amount > has:
        moves.append(Move("owed", to, Micros(amount - has), None))
    return tuple(moves)


def grant(account: Account, amount: Micros) -> tuple[Move, ...]:
    """The moves that make a lot of the amount, which pays what is owed first."""
    assert amount >= 0, "what is granted is not negative"
    if amount == 0:
        return ()
    moves = [Move("issued", "available", amount, NEW_LOT)]
    if account.owed:
        moves.append(Move("available", "owed", min(account.owed, amount), NEW_LOT))
    return tuple(moves)


def remove(account: Account, amount: Micros) -> tuple[Move, ...]:
    """The moves that take the amount away. Raises Insufficient: nobody is made to owe by it."""
    assert amount >= 0, "what is removed is not negative"
    has = Micros(sum(lot.available for lot in account.lots))
    if amount > has:
        raise Insufficient(amount, has)
    return tuple(_from_lots(account.lots, amount, "removed"))


def replaced(account: Account, amount: Micros) -> tuple[Move, ...]:
    """The moves after which the balance is the amount, in one new lot: the lots that there are go, and so does debt."""
    assert amount >= 0, "what is set is not negative"
    moves = [Move("available", "removed", lot.available, lot.lot_id) for lot in in_order(account.lots)]
    if account.owed:
        moves.append(Move("issued", "owed", account.owed, None))
    return (*moves, *grant(replace(account, owed=ZERO), amount))


def settle(account: Account, held: Sequence[Part], amount: Micros, overrun: Overrun, now: datetime) -> Settled:
    """The end of a hold that used `amount`: it is charged to the held credits, and the others of them are given back.

    What it used beyond them is charged as `overrun` says. Nothing is refused, for the work is done: what nobody paid is told.
    """
    assert amount >= 0, "what is charged is not negative"
    moves: list[Move] = []
    owed, left, refunded = account.owed, amount, 0
    for part in sorted(held, key=_order):
        spent = min(left, part.amount)
        if spent:
            moves.append(Move("held", "spent", spent, part.lot_id))
            left = Micros(left - spent)
        back = Micros(part.amount - spent)
        if back and part.expired(now):
            moves.append(Move("held", "expired", back, part.lot_id))
        elif back:
            refunded += back
            moves += _given_back(replace(part, amount=back), owed)
            owed = Micros(max(owed - back, 0))
    extra = ZERO
    if left and overrun == "balance":
        # Everything held is spent, so the account stands as it stood.
        extra = min(left, max(spendable(account, now), ZERO))
        moves += take(account, extra, "spent")
    charged = Micros(amount - left + extra)
    return Settled(tuple(moves), charged, Micros(refunded), Micros(amount - charged))


def _given_back(part: Part, owed: Micros) -> list[Move]:
    if part.lot_id is None:
        # It was owed. What of it a grant has paid meanwhile is the account's again, as a lot that never expires.
        moves = [Move("held", "owed", part.amount, None)]
        if part.amount > owed:
            moves.append(Move("owed", "available", Micros(part.amount - owed), NEW_LOT))
        return moves
    paid = min(owed, part.amount)
    moves = [Move("held", "owed", paid, part.lot_id)] if paid else []
    if part.amount > paid:
        moves.append(Move("held", "available", Micros(part.amount - paid), part.lot_id))
    return moves


def _from_lots(lots: Iterable[Lot], amount: Micros, to: Literal["held", "spent", "removed"]) -> list[Move]:
    moves, left = [], amount
    for lot in in_order(lots):
        if left == 0:
            break
        taken = min(left, lot.available)
        if taken:
            moves.append(Move("available", to, taken, lot.lot_id))
            left = Micros(left - taken)
    assert left == 0, "the caller has seen that it suffices"
    return moves


def _order(one: Lot | Part) -> tuple[bool, datetime, int]:
    """The nearest expiry first, and of equal ones the older lot; then what never expires; debt last."""
    return (one.lot_id is None, one.expires_at or _NEVER, one.lot_id or 0)
