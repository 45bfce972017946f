"""The ledger of credits: every operation on an account, each idempotent by its key. The rules are `metering.credits`.

Each is steps for `store.steps.run` (or `arun`), in the caller's transaction at READ COMMITTED; the caller commits:

1. Lock the account's row; whoever else has it is waited for. Of several accounts in one transaction, in order of
   (tenant, user); and whatever else the transaction locks, before.
2. Read it in a statement of its own, with the clock of the server: both are of after the wait.
3. Write down the lots that have expired by then.
4. Decide, and write the operation with its entries, in one statement. The database makes the figures of lots and account from
   the entries, and refuses what would overdraw one.

`at` stands for the clock in tests. All raise ValueError for an amount that is negative or more than AMOUNT_MAX.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from metering import credits as rules
from metering.credits import AMOUNT_MAX, LOTS_MAX, NEW_LOT, ZERO, Insufficient, Move, Overrun
from meterline_schemas.types import Micros
from store import credit_rows
from store.credit_rows import Balance, Done, Entered, HoldState, Kind
from store.holds import decimal_of
from store.steps import Ask, Steps

__all__ = ["Balance", "Done", "Insufficient"]

_DUE_LOTS_MAX: Final = 1_000
KEY_CHARACTERS_MAX: Final = 512


@dataclass(frozen=True)
class Owner:
    """Whose account it is. The account is made by the first operation."""

    tenant_id: str
    user_id: str


@dataclass(frozen=True)
class By:
    """Who does it, for the ledger."""

    who: str
    request_id: str | None = None


EXPIRY: Final = By("expiry")


class CreditsRefused(Exception):
    """The operation is not done; the message names the remedy."""

    code = "credits_refused"


class KeyReused(CreditsRefused):
    """The key stands for another operation."""

    code = "idempotency_key_reused"


class TooManyLots(CreditsRefused):
    """The account has as many lots as it may have."""

    code = "too_many_lots"


class UnknownHold(CreditsRefused):
    """There is no such hold."""

    code = "unknown_hold"


class HoldEnded(CreditsRefused):
    """Somebody has ended the hold in another way before. `done` says how."""

    def __init__(self, state: HoldState, done: Done) -> None:
        super().__init__(f"The hold is {state} already: that stands.")
        self.code = f"already_{state}"
        self.state = state
        self.done = done


def balance(owner: Owner, *, at: datetime | None = None) -> Steps[Balance]:
    """How the account stands. Takes no lock; lots that have expired are left out, written off or not."""
    rows = yield Ask(credit_rows.BALANCE, {"at": at, "tenant_id": owner.tenant_id, "user_id": owner.user_id})
    return credit_rows.balance_of(rows)


def grant(
    owner: Owner, amount: Micros, *, by: By, key: str, expires_in: timedelta | None = None, note: str = "",
    at: datetime | None = None,
) -> Steps[Done]:  # fmt: skip
    """Adds a lot, which pays what is owed first. Raises TooManyLots, KeyReused."""
    return (yield from _grant(owner, _Asked("grant", amount, by, _key(key), expires_in, note), at))


def set_balance(
    owner: Owner, amount: Micros, *, by: By, key: str, expires_in: timedelta | None = None, note: str = "",
    at: datetime | None = None,
) -> Steps[Done]:  # fmt: skip
    """Makes the balance the amount, in one new lot: what was available goes, so does debt. What is held stays held.

    Raises KeyReused.
    """
    asked = _Asked("set", amount, by, _key(key), expires_in, note)
    entered = yield from _entered_by(owner, asked, at)
    if entered.known is not None:
        return _repeated(entered, asked)
    return (yield from _write(entered, asked, rules.replaced(entered.account, amount), amount))


def remove(
    owner: Owner, amount: Micros, *, by: By, key: str, note: str = "", at: datetime | None = None
) -> Steps[Done]:  # fmt: skip
    """Takes credits away, in the order in which they would pay. Raises Insufficient, KeyReused."""
    return (yield from _remove(owner, _Asked("remove", amount, by, _key(key), note=note), at))


def adjust(
    owner: Owner, change: int, *, by: By, key: str, expires_in: timedelta | None = None, note: str = "",
    at: datetime | None = None,
) -> Steps[Done]:  # fmt: skip
    """Adds a lot, or takes credits away where the change is negative. Raises as these do."""
    if change < 0:
        return (yield from _remove(owner, _Asked("adjust", Micros(-change), by, _key(key), note=note, down=True), at))
    return (yield from _grant(owner, _Asked("adjust", Micros(change), by, _key(key), expires_in, note), at))


def charge(
    owner: Owner, amount: Micros, *, by: By, key: str, price: Mapping[str, Any] | None = None, note: str = "",
    at: datetime | None = None,
) -> Steps[Done]:  # fmt: skip
    """Spends at once. Raises Insufficient, KeyReused."""
    asked = _Asked("charge", amount, by, _key(key), note=note, price=price)
    entered = yield from _entered_by(owner, asked, at)
    if entered.known is not None:
        return _repeated(entered, asked)
    return (yield from _write(entered, asked, rules.take(entered.account, amount, "spent"), amount))


def hold(
    owner: Owner, hold_id: uuid.UUID, amount: Micros, *, by: By, purpose: Literal["session", "reservation"],
    price: Mapping[str, Any] | None = None, at: datetime | None = None,
) -> Steps[Done]:  # fmt: skip
    """Takes credits out of the balance until the hold ends.

    Raises Insufficient, KeyReused for an id that holds something else.
    """
    asked = _Asked("hold", amount, by, f"hold:{hold_id}", price=price, hold_id=hold_id, purpose=purpose)
    entered = yield from _entered_by(owner, asked, at)
    if entered.known is not None:
        return _repeated(entered, asked)
    if entered.hold_state is not None:
        raise KeyReused("The hold belongs to another account; make a new id for a new hold.")
    return (yield from _write(entered, asked, rules.take(entered.account, amount, "held"), amount))


def settle(
    hold_id: uuid.UUID, amount: Micros, *, by: By, overrun: Overrun, price: Mapping[str, Any] | None = None, note: str = "",
    at: datetime | None = None,
) -> Steps[Done]:  # fmt: skip
    """Ends the hold: charges what was used, gives the rest back, and says what nobody paid.

    A hold that has expired holds nothing any more, and the balance pays for all of it, whatever `overrun` says. Raises
    UnknownHold, HoldEnded for one that was released, or settled as something else.
    """
    asked = _Asked("settle", amount, by, f"settle:{hold_id}", note=note, price=price, hold_id=hold_id, hold_becomes="settled")
    entered = yield from _entered_by_hold(asked, at)
    state = entered.hold_state
    if entered.known is not None:
        if entered.digest != asked.digest:
            raise HoldEnded("settled", entered.known)
        return entered.known
    if state == "released":
        raise HoldEnded("released", (yield from _ended_as(hold_id, entered)))
    pays: Overrun = overrun if state == "open" else "balance"
    end = rules.settle(entered.account, entered.held, amount, pays, entered.now)
    return (yield from _write(entered, asked, end.moves, end.charged, end.refunded, end.shortfall))


def release(hold_id: uuid.UUID, *, by: By, expired: bool = False, at: datetime | None = None) -> Steps[Done]:
    """Ends the hold and gives back all of it; `expired`: because its time is over, and then it may still be settled.

    Released already, the answer is that one's. Raises UnknownHold, HoldEnded for one that was settled.
    """
    becomes: HoldState = "expired" if expired else "released"
    asked = _Asked("release", ZERO, by, f"release:{hold_id}", hold_id=hold_id, hold_becomes=becomes)
    entered = yield from _entered_by_hold(asked, at)
    if entered.hold_state == "settled":
        raise HoldEnded("settled", (yield from _ended_as(hold_id, entered)))
    if entered.known is not None:
        return entered.known
    end = rules.settle(entered.account, entered.held, ZERO, "held", entered.now)
    given_back = Micros(sum(part.amount for part in entered.held))
    return (yield from _write(entered, asked, end.moves, given_back, end.refunded))


def allow_overdraft(owner: Owner, up_to: Micros, *, by: By, key: str, note: str = "", at: datetime | None = None) -> Steps[Done]:
    """From now on the account may owe so much. Raises CreditsRefused below what it owes, KeyReused."""
    asked = _Asked("overdraft", up_to, by, _key(key), note=note)
    entered = yield from _entered_by(owner, asked, at)
    if entered.known is not None:
        return _repeated(entered, asked)
    if up_to < entered.account.owed:
        raise CreditsRefused("The account owes more than that already; allocate credits first, which pay it.")
    allowed = replace(entered, account=replace(entered.account, overdraft=up_to))
    return (yield from _write(allowed, asked, (), ZERO))


def expire_due(lots_max: int = _DUE_LOTS_MAX, *, at: datetime | None = None) -> Steps[int]:
    """Writes down lots that have expired; of how many accounts. Accounts that others have locked are left for another time."""
    due = yield Ask(credit_rows.DUE, {"at": at, "lots_max": lots_max})
    done = 0
    for (account_id,) in due:
        locked = yield Ask(credit_rows.LOCK_IF_FREE, {"account_id": account_id})
        if locked:
            yield from _enter(account_id, "", None, at)
            done += 1
    return done


# -- an operation --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """An operation that may be done."""

    kind: Kind
    amount: Micros
    by: By
    key: str
    expires_in: timedelta | None = None
    note: str = ""
    price: Mapping[str, Any] | None = None
    hold_id: uuid.UUID | None = None
    purpose: str | None = None
    down: bool = False
    """The amount is taken away, by an operation that may do either."""
    hold_becomes: HoldState | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= AMOUNT_MAX:
            raise ValueError(f"{self.amount} millionths of a credit are not within 0 and {AMOUNT_MAX}")

    @property
    def signed(self) -> Micros:
        return Micros(-self.amount) if self.down else self.amount

    @property
    def digest(self) -> bytes:
        """Of what makes it this operation and no other."""
        seconds = None if self.expires_in is None else self.expires_in / timedelta(microseconds=1)
        said = [self.kind, self.signed, seconds, self.note, self.purpose]
        return hashlib.sha256(json.dumps(said).encode()).digest()


def _key(key: str) -> str:
    """Callers' keys are kept apart from those of holds and expiry."""
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX:
        raise ValueError(f"a key has 1 to {KEY_CHARACTERS_MAX} characters")
    return f"key:{key}"


def _repeated(entered: Entered, asked: _Asked) -> Done:
    assert entered.known is not None
    if entered.digest != asked.digest:
        raise KeyReused("The key was used for another operation on this account; send a new one with a new request.")
    return entered.known


def _grant(owner: Owner, asked: _Asked, at: datetime | None) -> Steps[Done]:
    entered = yield from _entered_by(owner, asked, at)
    if entered.known is not None:
        return _repeated(entered, asked)
    if len(entered.account.lots) >= LOTS_MAX:
        raise TooManyLots(f"The account has {LOTS_MAX} lots with credits left; set its balance to make them one.")
    return (yield from _write(entered, asked, rules.grant(entered.account, asked.amount), asked.amount))


def _remove(owner: Owner, asked: _Asked, at: datetime | None) -> Steps[Done]:
    entered = yield from _entered_by(owner, asked, at)
    if entered.known is not None:
        return _repeated(entered, asked)
    return (yield from _write(entered, asked, rules.remove(entered.account, asked.amount), asked.amount))


def _entered_by(owner: Owner, asked: _Asked, at: datetime | None) -> Steps[Entered]:
    names = {"tenant_id": owner.tenant_id, "user_id": owner.user_id}
    locked = yield Ask(credit_rows.LOCK, names)
    if not locked:
        yield Ask(credit_rows.MAKE, names)
        locked = yield Ask(credit_rows.LOCK, names)
    return (yield from _enter(locked[0][0], asked.key, asked.hold_id, at))


def _entered_by_hold(asked: _Asked, at: datetime | None) -> Steps[Entered]:
    locked = yield Ask(credit_rows.LOCK_OF_HOLD, {"hold_id": asked.hold_id})
    if not locked:
        raise UnknownHold("There is no such hold of credits.")
    return (yield from _enter(locked[0][0], asked.key, asked.hold_id, at))


def _enter(account_id: int, key: str, hold_id: uuid.UUID | None, at: datetime | None) -> Steps[Entered]:
    """The locked account as it stands, its expired lots written down."""
    rows = yield Ask(credit_rows.READ, {"account_id": account_id, "key": key, "hold_id": hold_id, "at": at})
    entered = credit_rows.entered(rows[0])
    account, moves = rules.expire(entered.account, entered.now)
    entered = replace(entered, account=account)
    if moves:
        gone = Micros(sum(move.amount for move in moves))
        # A lot expires once: afterwards nothing is given back to it.
        asked = _Asked("expire", gone, EXPIRY, f"expire:{moves[0].lot_id}")
        yield from _write(entered, asked, moves, gone, applied=True)
    return entered


def _ended_as(hold_id: uuid.UUID, entered: Entered) -> Steps[Done]:
    """The operation that ended the hold."""
    ended = {"settled": f"settle:{hold_id}", "released": f"release:{hold_id}"}[str(entered.hold_state)]
    rows = yield Ask(credit_rows.READ, {"account_id": entered.account_id, "key": ended, "hold_id": None, "at": entered.now})
    known = credit_rows.entered(rows[0]).known
    assert known is not None, "an ended hold has the operation that ended it"
    return known


def _write(
    entered: Entered, asked: _Asked, moves: Sequence[Move], moved: Micros, refunded: Micros = ZERO, shortfall: Micros = ZERO,
    *, applied: bool = False,
) -> Steps[Done]:  # fmt: skip
    """Writes the operation; `applied`: the account in `entered` is as it stands after it already."""
    before = rules.balance(entered.account, entered.now)
    after = before if applied else Micros(before + rules.gain(moves))
    parameters = {
        "account_id": entered.account_id,
        "key": asked.key,
        "digest": asked.digest,
        "kind": asked.kind,
        "now": entered.now,
        "who": asked.by.who,
        "request_id": asked.by.request_id,
        "amount": decimal_of(asked.signed),
        "moved": decimal_of(moved),
        "refunded": decimal_of(refunded),
        "shortfall": decimal_of(shortfall),
        "balance": decimal_of(after),
        "hold_id": asked.hold_id,
        "purpose": asked.purpose,
        "hold_becomes": asked.hold_becomes,
        "price": None if asked.price is None else json.dumps(asked.price, sort_keys=True),
        "note": asked.note,
        "expires_in": asked.expires_in,
        "makes_lot": any(move.lot_id == NEW_LOT for move in moves),
        **credit_rows.columns_of(moves),
    }
    rows = yield Ask(credit_rows.WRITE, parameters)
    return Done(rows[0][0], asked.kind, asked.signed, moved, refunded, shortfall, after, entered.now, repeated=False)
