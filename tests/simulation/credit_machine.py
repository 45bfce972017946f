"""Whatever is done to an account, in whatever order and at whatever time: a ledger says what the naive model says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.simulation.credit_model import NaiveCredits, Operation, Outcome, Sight

START = datetime(2026, 11, 21, 10, tzinfo=UTC)
HOUR, TICK = timedelta(hours=1), timedelta(microseconds=1)

amounts = st.integers(0, 12)
lives = st.one_of(st.none(), st.integers(1, 6).map(lambda hours: timedelta(hours=hours)))
names = st.integers(0, 5).map(lambda number: f"h{number}")


class Ledger(Protocol):
    """What is held against the model."""

    def do(self, asked: Operation, now: datetime) -> Outcome: ...

    def sight(self, now: datetime) -> Sight: ...


class Remembering(Ledger, Protocol):
    """One that knows what was done under a key, and whose operations can be cut."""

    def cut(self, asked: Operation, now: datetime) -> None:
        """Does it and dies before the commit."""

    def expire(self, now: datetime) -> None:
        """The job."""


class CreditMachine(RuleBasedStateMachine):
    """`ledger` is set by who makes one."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.model = NaiveCredits()
        self.now = START
        self.keys = 0
        self.last: tuple[Operation, Outcome] | None = None

    def ask(self, kind: str, name: str | None = None, amount: int = 0, lives_for: timedelta | None = None,
            overrun: Literal["held", "balance"] = "balance") -> None:  # fmt: skip
        self.keys += 1
        asked = Operation(kind, name or f"k{self.keys}", amount, lives_for, overrun)  # type: ignore[arg-type]  # of Kind
        expected = self.model.do(asked, self.now)
        assert self.ledger.do(asked, self.now) == expected, asked
        self.last = (asked, expected)

    @rule(step=st.sampled_from([HOUR, 2 * HOUR, HOUR / 2, HOUR - TICK, TICK]))
    def time_passes(self, step: timedelta) -> None:
        """Lots live for whole hours: so to the instant of an expiry, to the one before, and past it."""
        self.now += step

    @rule(amount=amounts, lives_for=lives)
    def credits_are_granted(self, amount: int, lives_for: timedelta | None) -> None:
        self.ask("grant", amount=amount, lives_for=lives_for)

    @rule(amount=amounts, lives_for=lives)
    def the_balance_is_set(self, amount: int, lives_for: timedelta | None) -> None:
        self.ask("set", amount=amount, lives_for=lives_for)

    @rule(amount=st.integers(-12, 12), lives_for=lives)
    def the_balance_is_adjusted(self, amount: int, lives_for: timedelta | None) -> None:
        self.ask("adjust", amount=amount, lives_for=lives_for if amount >= 0 else None)

    @rule(amount=amounts)
    def credits_are_removed(self, amount: int) -> None:
        self.ask("remove", amount=amount)

    @rule(amount=amounts)
    def credits_are_charged(self, amount: int) -> None:
        self.ask("charge", amount=amount)

    @rule(amount=st.integers(0, 20))
    def the_account_may_owe(self, amount: int) -> None:
        self.ask("overdraft", amount=amount)

    @rule(amount=amounts, name=names)
    def credits_are_held(self, amount: int, name: str) -> None:
        if name not in self.model.holds:
            self.ask("hold", name, amount)

    @rule(name=names, amount=st.integers(0, 16), overrun=st.sampled_from(["held", "balance"]))
    def a_hold_is_settled(self, name: str, amount: int, overrun: Literal["held", "balance"]) -> None:
        self.ask("settle", name, amount, overrun=overrun)

    @rule(name=names, kind=st.sampled_from(["release", "sweep"]))
    def a_hold_is_given_back(self, name: str, kind: str) -> None:
        self.ask(kind, name)

    @rule(
        amount=st.integers(2, 12), used=st.integers(0, 6), late=st.sampled_from([timedelta(), -TICK, HOUR]),
        kind=st.sampled_from(["settle", "release", "sweep"]),
    )  # fmt: skip
    def a_hold_outlives_its_lot(self, amount: int, used: int, late: timedelta, kind: str) -> None:
        """To the instant, or one before it: hardly any schedule of single steps comes here."""
        name = f"outlives{self.keys}"
        self.ask("grant", amount=amount, lives_for=HOUR)
        self.ask("hold", name, amount - 1)
        self.now += HOUR + late
        self.ask(kind, name, used if kind == "settle" else 0)

    @invariant()
    def they_look_the_same(self) -> None:
        assert self.ledger.sight(self.now) == self.model.sight(self.now)

    @invariant()
    def the_account_owes_no_more_than_it_may(self) -> None:
        assert self.ledger.sight(self.now).balance >= -self.model.overdraft


class RememberingMachine(CreditMachine):
    """Of a ledger that repeats its answers, and that a crash may cut."""

    ledger: Remembering

    @precondition(lambda self: self.last is not None and self.last[1].refused is None)
    @rule()
    def the_last_one_comes_again(self) -> None:
        assert self.last is not None
        asked, answer = self.last
        assert self.ledger.do(asked, self.now) == answer

    @precondition(lambda self: self.last is not None and self.last[1].refused is None and self.last[0].kind == "adjust")
    @rule(turned_round=st.booleans())
    def the_last_key_comes_for_something_else(self, turned_round: bool) -> None:
        assert self.last is not None
        asked = self.last[0]
        other = replace(asked, amount=-asked.amount if turned_round and asked.amount else asked.amount + 1)
        assert self.ledger.do(other, self.now).refused == "idempotency_key_reused"

    @rule(amount=amounts, name=names, kind=st.sampled_from(["grant", "set", "charge", "hold", "settle", "release"]))
    def something_is_cut(self, amount: int, name: str, kind: str) -> None:
        if kind != "hold" or name not in self.model.holds:
            self.ledger.cut(Operation(kind, name, amount), self.now)  # type: ignore[arg-type]  # of Kind

    @rule()
    def the_job_of_expiry_runs(self) -> None:
        self.ledger.expire(self.now)
