"""T2: the ledger of credits in Postgres, against the naive model; and what is in it adds up by itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis.stateful import run_state_machine_as_test

from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from store import credits
from store.credit_checks import check_credits
from store.credits import By, CreditsRefused, Done, Insufficient, Owner
from store.steps import Steps, run
from tests.simulation.credit_machine import RememberingMachine
from tests.simulation.credit_model import NEVER, Operation, Outcome, Sight
from tests.simulation.unhurried import unhurried

BY = By("tester")


class InPostgres:
    """One account, and holds whose ids are made of its name."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.owner = Owner("t", uuid.uuid4().hex)

    def sight(self, now: datetime) -> Sight:
        shown = run(self.connection, credits.balance(self.owner, at=now))
        self.connection.commit()
        return Sight(shown.balance, shown.held, tuple((lot.expires_at or NEVER, lot.available) for lot in shown.lots))

    def do(self, asked: Operation, now: datetime) -> Outcome:
        try:
            done = run(self.connection, self.steps(asked, now))
        except (CreditsRefused, Insufficient) as refused:
            self.connection.rollback()
            return Outcome(refused.code)
        self.connection.commit()
        return Outcome(None, done.moved, done.refunded, done.shortfall, done.balance)

    def cut(self, asked: Operation, now: datetime) -> None:
        try:
            run(self.connection, self.steps(asked, now))
        except (CreditsRefused, Insufficient):
            pass
        finally:
            self.connection.rollback()

    def expire(self, now: datetime) -> None:
        run(self.connection, credits.expire_due(at=now))
        self.connection.commit()

    def steps(self, asked: Operation, now: datetime) -> Steps[Done]:
        amount, hold_id = Micros(asked.amount), uuid.uuid5(uuid.NAMESPACE_OID, self.owner.user_id + asked.name)
        key = {"by": BY, "key": asked.name, "at": now}
        match asked.kind:
            case "grant":
                return credits.grant(self.owner, amount, expires_in=asked.lives_for, **key)  # type: ignore[arg-type]
            case "set":
                return credits.set_balance(self.owner, amount, expires_in=asked.lives_for, **key)  # type: ignore[arg-type]
            case "adjust":
                return credits.adjust(self.owner, amount, expires_in=asked.lives_for, **key)  # type: ignore[arg-type]
            case "remove":
                return credits.remove(self.owner, amount, **key)  # type: ignore[arg-type]
            case "charge":
                return credits.charge(self.owner, amount, **key)  # type: ignore[arg-type]
            case "overdraft":
                return credits.allow_overdraft(self.owner, amount, **key)  # type: ignore[arg-type]
            case "hold":
                return credits.hold(self.owner, hold_id, amount, by=BY, purpose="session", at=now)
            case "settle":
                return credits.settle(hold_id, amount, by=BY, overrun=asked.overrun, at=now)
            case "release" | "sweep":
                return credits.release(hold_id, by=BY, expired=asked.kind == "sweep", at=now)


class PostgresMachine(RememberingMachine):
    connection: ClassVar[psycopg.Connection[Any]]
    compared: ClassVar[int] = 0
    """Examples that came to their end with every figure as the model has it."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = InPostgres(self.connection)

    def teardown(self) -> None:
        check = check_credits(self.connection)
        self.connection.commit()
        assert check.ok, check.findings
        type(self).compared += 1


@pytest.fixture(scope="module")
def connection(migrated: Settings) -> Iterator[psycopg.Connection[Any]]:
    with connect(migrated) as connection:
        yield connection


def test_the_ledger_in_postgres_says_what_the_naive_model_says(connection: psycopg.Connection[Any]) -> None:
    PostgresMachine.connection = connection
    run_state_machine_as_test(PostgresMachine, settings=unhurried(examples=15, steps=40))
    assert PostgresMachine.compared >= 15
