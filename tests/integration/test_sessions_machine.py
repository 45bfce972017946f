"""T2: sessions in the real Postgres against a model that nobody would build: every operation, time, repeats and crashes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from control_plane.refusals import Refusal
from control_plane.sessions import service
from control_plane.sessions.service import Order, Outcome
from control_plane.unit import Actor, Unit, Units
from metering.rates import Tokens
from metering.sessions import NONE, Ended, SessionState
from runtime.settings import Settings
from store import credits
from store.credit_checks import check_credits
from store.credits import Owner
from store.steps import run
from tests.fakes.credit_customers import CAPPED, MODEL, TENANT, give, let_expire, spend, with_catalog
from tests.fakes.sweeping import sweep_all
from tests.simulation.unhurried import unhurried

NAMES = st.sampled_from(["a", "b", "c"])
TOKENS = st.builds(Tokens, st.integers(0, 50), st.sampled_from([0, 1, 10, 100, 1_000]), st.integers(0, 3))
TTL = timedelta(hours=20)


def cost(tokens: Tokens) -> int:
    """In millionths, by the prices of the model."""
    return tokens.input * 1_000 + tokens.output * 3_000 + tokens.cached * 100


@dataclass
class Naive:
    """A session, with what was ever charged of it."""

    estimated: Tokens
    held: int
    state: str = "active"
    reported: Tokens = NONE
    said: tuple[str, Tokens] | None = None
    charged: int = 0
    uncollected: int = 0
    overdue: bool = False


class SessionMachine(RuleBasedStateMachine):
    settings: ClassVar[Settings]
    units: ClassVar[Units]
    compared: ClassVar[int] = 0
    """Examples that came to their end with every figure as the model has it."""

    @initialize(capped=st.booleans())
    def begin(self, capped: bool) -> None:
        self.capped = capped
        self.owner = Owner(CAPPED if capped else TENANT, f"u_{uuid.uuid4().hex[:12]}")
        with self.units.begin(Actor("test")) as unit:
            unit.pg.execute(
                "INSERT INTO users (user_id, tenant_id, role) VALUES (%s, %s, 'user')", (self.owner.user_id, self.owner.tenant_id)
            )
        self.balance = 0
        self.sessions: dict[str, Naive] = {}
        self.charged_here = 0

    # -- what is done ------------------------------------------------------------------------------------------------

    def does(self, work: Callable[[Unit], Outcome], crashes: bool) -> Outcome | str | None:
        """The outcome, the code of a refusal, or None for a process that died before its commit."""
        try:
            with self.units.begin(Actor("test")) as unit:
                outcome = work(unit)
                if crashes:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            return None
        except Refusal as refused:
            return None if crashes else refused.code
        return outcome

    @rule(amount=st.integers(1, 5))
    def grant(self, amount: int) -> None:
        give(self.settings, self.owner, amount)
        self.balance += amount * 1_000_000

    @rule(amount=st.integers(1, 3))
    def somebody_spends(self, amount: int) -> None:
        paid = spend(self.settings, self.owner, amount)
        assert paid == (self.balance >= amount * 1_000_000)
        if paid:
            self.balance -= amount * 1_000_000

    @rule(name=NAMES, tokens=TOKENS, crashes=st.booleans())
    def initializes(self, name: str, tokens: Tokens, crashes: bool) -> None:
        order = Order(name, MODEL, tokens, TTL)
        outcome = self.does(lambda unit: service.initialize(unit, self.owner, order, datetime.now(UTC)), crashes)
        if crashes:
            return
        known = self.sessions.get(name)
        if known is not None and known.estimated != tokens:
            assert outcome == "session_exists"
        elif known is not None and known.state != "active":
            assert outcome == "session_ended"
        elif known is not None:
            assert isinstance(outcome, Outcome)
            assert (outcome.repeated, outcome.balance) == (True, self.balance)
        elif self.balance < cost(tokens):
            assert outcome == "insufficient_credits"
        else:
            self.balance -= cost(tokens)
            self.sessions[name] = Naive(tokens, cost(tokens))
            assert isinstance(outcome, Outcome)
            assert (outcome.repeated, outcome.balance) == (False, self.balance)

    @rule(name=NAMES, tokens=TOKENS, crashes=st.booleans())
    def beats(self, name: str, tokens: Tokens, crashes: bool) -> None:
        outcome = self.does(lambda unit: service.heartbeat(unit, self.owner, name, tokens), crashes)
        if crashes:
            return
        known = self.sessions.get(name)
        if known is None:
            assert outcome == "not_found"
        elif known.state != "active":
            assert outcome == f"session_{known.state}"
        else:
            known.overdue = False
            was = known.reported
            known.reported = Tokens(*(max(getattr(was, k), getattr(tokens, k)) for k in ("input", "output", "cached")))
            assert isinstance(outcome, Outcome)
            assert outcome.row.session.reported == known.reported

    @rule(name=NAMES, tokens=TOKENS, ended=st.sampled_from([SessionState.FINALIZED, SessionState.ABORTED]), crashes=st.booleans())
    def ends(self, name: str, tokens: Tokens, ended: Ended, crashes: bool) -> None:
        topic = self.settings.topic_events
        outcome = self.does(lambda unit: service.end(unit, self.owner, name, ended, tokens, topic), crashes)
        if crashes:
            return
        known = self.sessions.get(name)
        if known is None:
            assert outcome == "not_found"
            return
        if known.state in ("finalized", "aborted"):
            if known.said != (ended.value, tokens):
                assert outcome == f"session_{known.state}"
                return
            assert isinstance(outcome, Outcome)
            assert outcome.repeated
        else:
            assert isinstance(outcome, Outcome)
            if known.state == "active":
                self.settles(known, tokens)
            else:
                self.settles_late(known, tokens)
            known.state, known.said = ended.value, (ended.value, tokens)
        paid = outcome.row.paid
        assert paid is not None
        assert (paid.charged, paid.uncollected, outcome.balance) == (known.charged, known.uncollected, self.balance)

    def settles(self, known: Naive, tokens: Tokens) -> None:
        due = cost(tokens)
        has = known.held if self.capped else known.held + self.balance
        known.charged = min(due, has)
        known.uncollected = due - known.charged
        self.charged_here += known.charged
        self.balance += known.held - known.charged

    def settles_late(self, known: Naive, tokens: Tokens) -> None:
        due = min(cost(tokens), known.held) if self.capped else cost(tokens)
        more = min(max(0, due - known.charged), self.balance)
        known.charged += more
        known.uncollected = max(0, cost(tokens) - known.charged)
        self.charged_here += more
        self.balance -= more

    @rule(name=NAMES)
    def time_passes(self, name: str) -> None:
        # Sessions of earlier examples have the same names, and stay as they were.
        let_expire(self.settings, name, user_id=self.owner.user_id)
        if name in self.sessions:
            self.sessions[name].overdue = True

    @rule(rows_max=st.integers(1, 3))
    def sweeps(self, rows_max: int) -> None:
        due = [known for known in self.sessions.values() if known.state == "active" and known.overdue]
        assert sweep_all(self.settings, rows_max) == len(due)
        for known in due:
            known.state = "expired"
        if len(due) == 1 or self.capped:
            for known in due:
                self.settles(known, known.reported)
            return
        # Which is swept first decides who takes the balance, so only the sum is known.
        self.takes_over(due)

    def takes_over(self, due: list[Naive]) -> None:
        with self.units.begin(Actor("test")) as unit:
            rows = unit.pg.execute(
                "SELECT session_id, (charged * 1000000)::bigint, (uncollected * 1000000)::bigint FROM streaming_sessions"
                " WHERE user_id = %s",
                (self.owner.user_id,),
            ).fetchall()
        before = self.balance + sum(known.held for known in due)
        for name, charged, uncollected in rows:
            known = self.sessions[name]
            if any(known is one for one in due):
                known.charged, known.uncollected = charged, uncollected
                assert charged + uncollected == cost(known.reported)
                assert uncollected == 0 or charged >= known.held
        charged = sum(known.charged for known in due)
        self.charged_here += charged
        self.balance = before - charged
        assert self.balance >= 0

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def credits_are_neither_lost_nor_made(self) -> None:
        if not hasattr(self, "sessions"):
            return
        with self.units.begin(Actor("test")) as unit:
            shown = run(unit.pg, credits.balance(self.owner))
            values = unit.pg.execute(
                "SELECT value FROM outbox WHERE convert_from(value, 'UTF8') LIKE %s", (f'%"userId":"{self.owner.user_id}"%',)
            ).fetchall()
        held = sum(known.held for known in self.sessions.values() if known.state == "active")
        assert (shown.balance, shown.held) == (self.balance, held)
        promised = [json.loads(bytes(value)) for (value,) in values]
        assert sum(round(float(event["quantity"]) * 1_000_000) for event in promised) == self.charged_here
        assert len({event["sourceEntityId"] for event in promised}) == len(promised)

    def teardown(self) -> None:
        # What is overdue here would be swept in the next example, which does not know of it.
        sweep_all(self.settings)
        with self.units.begin(Actor("test")) as unit:
            check = check_credits(unit.pg)
        assert check.ok, check.findings
        type(self).compared += 1


@pytest.fixture(scope="module")
def units(migrated: Settings) -> Iterator[Units]:
    SessionMachine.settings = with_catalog(migrated)
    made = Units(migrated)
    yield made
    made.close()


def test_sessions_in_postgres_do_what_the_naive_model_does(units: Units) -> None:
    SessionMachine.units = units
    run_state_machine_as_test(SessionMachine, settings=unhurried(examples=20, steps=30))
    assert SessionMachine.compared >= 20
