"""The statements of the ledger of credits, and its rows as values. What they do in which order: `store.credits`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from metering import credits as rules
from metering.credits import ZERO, Account, Lot, Move, Part
from meterline_schemas.types import Micros
from store.holds import decimal_of, micros_of

Kind = Literal["grant", "set", "adjust", "remove", "charge", "hold", "settle", "release", "expire", "overdraft"]
HoldState = Literal["open", "settled", "released", "expired"]

LOCK: Final = """
SELECT account_id FROM credit_accounts WHERE tenant_id = %(tenant_id)s AND user_id = %(user_id)s FOR UPDATE
"""
LOCK_OF_HOLD: Final = """
SELECT a.account_id FROM credit_holds h JOIN credit_accounts a USING (account_id) WHERE h.hold_id = %(hold_id)s FOR UPDATE OF a
"""
LOCK_IF_FREE: Final = """
SELECT account_id FROM credit_accounts WHERE account_id = %(account_id)s FOR UPDATE SKIP LOCKED
"""
MAKE: Final = """
INSERT INTO credit_accounts (tenant_id, user_id) VALUES (%(tenant_id)s, %(user_id)s)
    ON CONFLICT (tenant_id, user_id) WHERE NOT starts_with(tenant_id, 'forgotten:') AND NOT starts_with(user_id, 'forgotten:')
    DO NOTHING
"""

# Sent once the lock is had, so that it sees, and its clock is after, what others did before.
READ: Final = """
SELECT coalesce(%(at)s::timestamptz, clock_timestamp()), a.account_id, a.owed, a.overdraft,
       l.ids, l.available, l.expiries,
       o.operation_id, o.kind, o.digest, o.amount, o.moved, o.refunded, o.shortfall, o.balance, o.at,
       h.state, h.account_id, parts.ids, parts.amounts, parts.expiries
  FROM credit_accounts a
  LEFT JOIN LATERAL (
       SELECT array_agg(lot_id) AS ids, array_agg(available::numeric) AS available, array_agg(expires_at) AS expiries
         FROM credit_lots WHERE account_id = a.account_id AND available > 0
       ) l ON true
  LEFT JOIN credit_operations o ON o.account_id = a.account_id AND o.key = %(key)s
  LEFT JOIN credit_holds h ON h.hold_id = %(hold_id)s
  LEFT JOIN LATERAL (
       SELECT array_agg(e.lot_id) AS ids, array_agg(e.amount::numeric) AS amounts, array_agg(x.expires_at) AS expiries
         FROM credit_operations p JOIN credit_entries e USING (operation_id) LEFT JOIN credit_lots x USING (lot_id)
        WHERE p.account_id = a.account_id AND p.key = 'hold:' || h.hold_id AND e.target = 'held' AND h.state = 'open'
       ) parts ON true
 WHERE a.account_id = %(account_id)s
"""

# One statement: the figures of lots and accounts follow the entries at its end.
WRITE: Final = """
WITH lot AS (
    INSERT INTO credit_lots (account_id, created_at, expires_at, note)
    SELECT %(account_id)s, %(now)s, %(now)s + %(expires_in)s::interval, %(note)s WHERE %(makes_lot)s
    RETURNING lot_id
), made AS (
    INSERT INTO credit_holds (hold_id, account_id, purpose, amount, created_at)
    SELECT %(hold_id)s, %(account_id)s, %(purpose)s, %(amount)s, %(now)s WHERE %(purpose)s::text IS NOT NULL
), ended AS (
    UPDATE credit_holds SET state = %(hold_becomes)s, ended_at = %(now)s
     WHERE hold_id = %(hold_id)s AND %(hold_becomes)s::text IS NOT NULL
), allowed AS (
    UPDATE credit_accounts SET overdraft = %(amount)s WHERE account_id = %(account_id)s AND %(kind)s = 'overdraft'
), operation AS (
    INSERT INTO credit_operations (account_id, key, digest, kind, at, who, request_id, amount, moved, refunded, shortfall,
                                   balance, hold_id, price, note)
    VALUES (%(account_id)s, %(key)s, %(digest)s, %(kind)s, %(now)s, %(who)s, %(request_id)s, %(amount)s, %(moved)s, %(refunded)s,
            %(shortfall)s, %(balance)s, %(hold_id)s, %(price)s, %(note)s)
    RETURNING operation_id
), moved AS (
    INSERT INTO credit_entries (operation_id, lot_id, source, target, amount)
    SELECT operation.operation_id, CASE m.lot_id WHEN -1 THEN (SELECT lot_id FROM lot) ELSE m.lot_id END,
           m.source, m.target, m.amount
      FROM operation, unnest(%(lots)s::bigint[], %(sources)s::text[], %(targets)s::text[], %(amounts)s::numeric[])
           AS m (lot_id, source, target, amount)
)
SELECT operation_id FROM operation
"""

BALANCE: Final = """
SELECT coalesce(%(at)s::timestamptz, clock_timestamp()), a.owed, a.overdraft, a.held,
       l.lot_id, l.available, l.held, l.expires_at, l.created_at, l.note
  FROM credit_accounts a
  LEFT JOIN credit_lots l ON l.account_id = a.account_id AND l.available > 0
 WHERE a.tenant_id = %(tenant_id)s AND a.user_id = %(user_id)s
"""

DUE: Final = """
SELECT DISTINCT account_id FROM (
    SELECT account_id FROM credit_lots
     WHERE available > 0 AND expires_at <= coalesce(%(at)s::timestamptz, clock_timestamp())
     ORDER BY expires_at LIMIT %(lots_max)s) due
"""


@dataclass(frozen=True)
class LotShown:
    """A lot with credits left."""

    lot_id: int
    available: Micros
    held: Micros
    expires_at: datetime | None
    created_at: datetime
    note: str


@dataclass(frozen=True)
class Balance:
    """How an account stands."""

    balance: Micros
    """Negative where it owes."""
    held: Micros
    overdraft: Micros
    """How much it may owe."""
    lots: tuple[LotShown, ...]
    """In the order in which they pay."""
    at: datetime | None
    """None: nobody has an account yet."""

    @property
    def spendable(self) -> Micros:
        return Micros(self.balance + self.overdraft)


@dataclass(frozen=True)
class Done:
    """What an operation came to."""

    operation_id: int
    kind: Kind
    amount: Micros
    """As asked."""
    moved: Micros
    """Granted, removed, charged, held, or given back."""
    refunded: Micros
    """Of a hold, what went back to the balance. Credits of lots that expired meanwhile do not: they expire."""
    shortfall: Micros
    """Of what a settlement asked for, what nobody paid."""
    balance: Micros
    """After it; negative where the account owes."""
    at: datetime
    repeated: bool
    """It had been done before; nothing was done now, and this is the answer of then."""


@dataclass(frozen=True)
class Entered:
    """An account that is locked, with what an operation has to know."""

    account_id: int
    now: datetime
    account: Account
    known: Done | None
    """The operation of this key."""
    digest: bytes
    hold_state: HoldState | None
    hold_account_id: int | None
    held: tuple[Part, ...]


def entered(row: Sequence[Any]) -> Entered:
    """Of a row of READ."""
    (
        now, account_id, owed, overdraft, ids, available, expiries,
        operation_id, kind, digest, amount, moved, refunded, shortfall, after, at,
        hold_state, hold_account_id, part_ids, part_amounts, part_expiries,
    ) = row  # fmt: skip
    lots = tuple(
        Lot(lot_id, micros_of(left), expires_at)
        for lot_id, left, expires_at in zip(ids or (), available or (), expiries or (), strict=True)
    )
    held = tuple(
        Part(lot_id, micros_of(taken), expires_at)
        for lot_id, taken, expires_at in zip(part_ids or (), part_amounts or (), part_expiries or (), strict=True)
    )
    known = None
    if operation_id is not None:
        known = Done(
            operation_id, kind, micros_of(amount), micros_of(moved), micros_of(refunded), micros_of(shortfall), micros_of(after),
            at, repeated=True,
        )  # fmt: skip
    account = Account(lots, micros_of(owed), micros_of(overdraft))
    return Entered(account_id, now, account, known, bytes(digest or b""), hold_state, hold_account_id, held)


def balance_of(rows: Sequence[Sequence[Any]]) -> Balance:
    """Of the rows of BALANCE."""
    if not rows:
        return Balance(ZERO, ZERO, ZERO, (), None)
    now, owed, overdraft, held = rows[0][:4]
    shown = {
        row[4]: LotShown(row[4], micros_of(row[5]), micros_of(row[6]), row[7], row[8], row[9])
        for row in rows
        if row[4] is not None
    }
    lots = [Lot(lot.lot_id, lot.available, lot.expires_at) for lot in shown.values()]
    account, _ = rules.expire(Account(tuple(lots), micros_of(owed), micros_of(overdraft)), now)
    in_order = tuple(shown[lot.lot_id] for lot in rules.in_order(account.lots))
    return Balance(rules.balance(account, now), micros_of(held), account.overdraft, in_order, now)


def columns_of(moves: Sequence[Move]) -> dict[str, list[Any]]:
    """The moves as the arrays that WRITE takes."""
    amounts: list[Decimal] = [decimal_of(move.amount) for move in moves]
    return {
        "lots": [move.lot_id for move in moves],
        "sources": [move.source for move in moves],
        "targets": [move.target for move in moves],
        "amounts": amounts,
    }
