"""An account of credits in the database, and what must hold of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from store import credits
from store.credit_checks import check_credits
from store.credits import Balance, By, Done, Owner
from store.steps import Steps, run

BY = By("tester", "req-1")
CREDIT = 1_000_000


@pytest.fixture
def connection(migrated: Settings) -> Iterator[psycopg.Connection[Any]]:
    with connect(migrated) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def owner() -> Owner:
    return Owner("tnt_123", uuid.uuid4().hex)


def do(connection: psycopg.Connection[Any], steps: Steps[Done]) -> Done:
    done = run(connection, steps)
    connection.commit()
    return done


def give(connection: psycopg.Connection[Any], owner: Owner, credits_: int, key: str = "given", **over: Any) -> Done:
    return do(connection, credits.grant(owner, Micros(credits_ * CREDIT), by=BY, key=key, **over))


def stands(connection: psycopg.Connection[Any], owner: Owner) -> Balance:
    shown = run(connection, credits.balance(owner))
    connection.rollback()
    return shown


def adds_up(connection: psycopg.Connection[Any]) -> None:
    check = check_credits(connection)
    connection.rollback()
    assert check.ok, check.findings
