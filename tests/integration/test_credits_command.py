"""`meterline credits`: an account as an operator sees it, and what it may owe."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from cli.commands.credits import command
from meterline_schemas.types import Micros
from runtime.exits import MeterlineExit
from runtime.postgres import connect
from runtime.settings import Settings
from store import credits
from store.credits import By, Owner
from store.migrate import migrate_postgres
from store.steps import run
from tests.fakes.pipeline import environment_of


@pytest.fixture(scope="module")
def schema(settings: Settings) -> Settings:
    migrate_postgres(settings)
    with connect(settings) as connection:
        connection.execute("INSERT INTO tenants (tenant_id) VALUES ('t')")
        connection.execute("INSERT INTO users (user_id, tenant_id, email, role) VALUES ('u1', 't', 'ada@example.com', 'user')")
        run(connection, credits.grant(Owner("t", "u1"), Micros(2_500_000), by=By("tester"), key="k", note="welcome"))
    return settings


def meterline(settings: Settings, *words: str) -> Result:
    ran = CliRunner().invoke(command, words, env=environment_of(settings), standalone_mode=False)
    if ran.exception is not None:
        raise ran.exception
    return ran


def test_an_account_is_shown_and_allowed_to_owe(schema: Settings) -> None:
    assert (
        "u1 of t may owe 5 credits"
        in meterline(schema, "overdraft", "t", "ADA@example.com", "5", "--note", "a good customer").output
    )
    shown = json.loads(meterline(schema, "show", "t", "u1", "--json").output)
    assert (shown["balance"], shown["held"], shown["overdraft"]) == ("2.5", "0", "5")
    assert [(lot["credits"], lot["note"]) for lot in shown["lots"]] == [("2.5", "welcome")]
    assert [(one["kind"], one["note"]) for one in shown["operations"]] == [("overdraft", "a good customer"), ("grant", "welcome")]
    said = meterline(schema, "show", "t", "ada@example.com").output
    assert "balance 2.5, held 0, overdraft 5" in said
    assert "welcome" in said
    with connect(schema) as connection:
        run(connection, credits.charge(Owner("t", "u1"), Micros(3_000_000), by=By("tester"), key="c"))
    with pytest.raises(MeterlineExit, match="allocate credits first"):
        meterline(schema, "overdraft", "t", "u1", "0.4")


def test_who_does_not_exist_and_what_is_no_amount_are_told(schema: Settings) -> None:
    with pytest.raises(MeterlineExit, match="t has no user nobody"):
        meterline(schema, "show", "t", "nobody")
    for amount in ("NaN", "1e3", "--", "0.0000001"):
        with pytest.raises(Exception, match=r"UP_TO|not a decimal|exponent|decimals|Missing"):
            meterline(schema, "overdraft", "t", "u1", amount)
