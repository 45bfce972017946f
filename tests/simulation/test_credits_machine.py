"""T2: the rules of credits alone, against the naive model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from metering import credits as rules
from metering.credits import MOVES, NEW_LOT, Account, Insufficient, Lot, Move, Part
from meterline_schemas.types import Micros
from tests.simulation.credit_machine import CreditMachine
from tests.simulation.credit_model import NEVER, Operation, Outcome, Sight
from tests.simulation.unhurried import unhurried


class InMemory:
    """An account that is nothing but the moves that the rules make."""

    def __init__(self) -> None:
        self.account = Account()
        self.lots = 0
        self.expiry: dict[int, datetime | None] = {}
        self.parts: dict[str, list[Part]] = {}
        self.ended: dict[str, tuple[Operation, Outcome]] = {}
        self.places: dict[str, int] = defaultdict(int)

    def sight(self, now: datetime) -> Sight:
        live, _ = rules.expire(self.account, now)
        shown = tuple((lot.expires_at or NEVER, lot.available) for lot in rules.in_order(live.lots))
        return Sight(rules.balance(self.account, now), sum(part.amount for parts in self.parts.values() for part in parts), shown)

    def do(self, asked: Operation, now: datetime) -> Outcome:
        self.account, moves = rules.expire(self.account, now)
        self.note(moves)
        if asked.kind in ("settle", "release", "sweep"):
            return self.end(asked, now)
        amount = Micros(abs(asked.amount))
        try:
            if asked.kind == "grant" or (asked.kind == "adjust" and asked.amount >= 0):
                moves = rules.grant(self.account, amount)
            elif asked.kind == "set":
                moves = rules.replaced(self.account, amount)
            elif asked.kind in ("remove", "adjust"):
                moves = rules.remove(self.account, amount)
            elif asked.kind == "overdraft":
                if amount < self.account.owed:
                    return Outcome("credits_refused")
                self.account, moves, amount = Account(self.account.lots, self.account.owed, amount), (), Micros(0)
            else:
                moves = rules.take(self.account, amount, "held" if asked.kind == "hold" else "spent")
        except Insufficient as refused:
            return Outcome(refused.code)
        self.apply(moves, None if asked.lives_for is None else now + asked.lives_for)
        if asked.kind == "hold":
            self.parts[asked.name] = [
                Part(move.lot_id, move.amount, None if move.lot_id is None else self.expiry[move.lot_id]) for move in moves
            ]
        return Outcome(None, amount, balance=rules.balance(self.account, now))

    def end(self, asked: Operation, now: datetime) -> Outcome:
        if asked.name not in self.parts:
            return Outcome("unknown_hold")
        before = self.ended.get(asked.name)
        if before is not None:
            kind, answer = before[0].kind, before[1]
            if kind == "settle":
                same = (asked.kind, asked.amount) == ("settle", before[0].amount)
                return answer if same else Outcome("already_settled")
            if asked.kind != "settle":
                return answer
            if kind == "release":
                return Outcome("already_released")
        parts, self.parts[asked.name] = self.parts[asked.name], []
        amount = Micros(asked.amount if asked.kind == "settle" else 0)
        end = rules.settle(self.account, parts, amount, asked.overrun if before is None else "balance", now)
        assert end.charged + end.shortfall == amount
        self.apply(end.moves, None)
        moved = end.charged if asked.kind == "settle" else sum(part.amount for part in parts)
        outcome = Outcome(None, moved, end.refunded, end.shortfall, rules.balance(self.account, now))
        self.ended[asked.name] = (asked, outcome)
        return outcome

    def note(self, moves: Iterable[Move]) -> None:
        for move in moves:
            assert (move.source, move.target) in MOVES
            assert move.amount > 0
            self.places[move.source] -= move.amount
            self.places[move.target] += move.amount
        assert sum(self.places.values()) == 0

    def apply(self, moves: Iterable[Move], expires_at: datetime | None) -> None:
        moves = tuple(moves)
        gain = rules.gain(moves)
        before = sum(lot.available for lot in self.account.lots) - self.account.owed
        self.note(moves)
        available = {lot.lot_id: lot.available for lot in self.account.lots}
        owed = self.account.owed
        if any(move.lot_id == NEW_LOT for move in moves):
            self.lots += 1
            self.expiry[self.lots] = expires_at
        for move in moves:
            lot_id = self.lots if move.lot_id == NEW_LOT else move.lot_id
            owed = Micros(owed + move.amount * ((move.source == "owed") - (move.target == "owed")))
            change = move.amount * ((move.target == "available") - (move.source == "available"))
            if change:
                assert lot_id is not None
                available[lot_id] = Micros(available.get(lot_id, 0) + change)
        assert all(left >= 0 for left in available.values())
        assert owed >= 0
        assert owed == 0 or not any(available.values()), "what is available has not paid what is owed"
        lots = tuple(Lot(lot_id, left, self.expiry[lot_id]) for lot_id, left in available.items() if left)
        self.account = Account(lots, owed, self.account.overdraft)
        assert sum(lot.available for lot in lots) - owed == before + gain


class InMemoryMachine(CreditMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = InMemory()


InMemoryMachine.TestCase.settings = unhurried(examples=80, steps=40)
test_the_rules_of_credits = InMemoryMachine.TestCase
