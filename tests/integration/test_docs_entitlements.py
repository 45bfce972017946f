"""The guide to entitlements: its file is applied, its check is asked, its commands run, and it names every name there is."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from cli.commands import plans as plans_command
from entitlements.openapi import document
from metering.limits import LET_IN, Reason, WhenUnavailable
from metering.periods import PeriodKind
from runtime.postgres import connect
from runtime.settings import Settings
from store import catalog
from store.catalog_file import parse_catalog
from store.service_secrets import create
from tests.integration.serving import environment, serving

GUIDE = (Path(__file__).parents[2] / "docs" / "entitlements.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def table(heading: str) -> list[str]:
    """The names in the first column of the table whose first heading this is."""
    (rows,) = re.findall(rf"^\| {re.escape(heading)} \|.*?\n\|[-|]+\n((?:\|.*\n)+)", GUIDE, re.MULTILINE)
    return re.findall(r"^\| (?:`([a-z_]+)`|[a-z ]+) \|", rows, re.MULTILINE)


@pytest.fixture(scope="module")
def applied(migrated: Settings) -> Settings:
    (text,) = blocks("yaml")
    with connect(migrated, autocommit=True) as connection:
        catalog.apply(connection, parse_catalog(text), by="reader")
    return migrated


def test_the_check_of_the_guide_is_answered_as_it_says(applied: Settings) -> None:
    (request,), (answer,) = blocks("json request"), blocks("json answer")
    with connect(applied) as connection:
        secret = create(connection, "docs", ["docs"])
    with serving(applied, secret=secret) as server:
        said = server.check(**json.loads(request))
    promised = json.loads(answer)
    assert {name: said[name] for name in promised} == promised
    assert set(said) - set(promised) == {"resetsAt", "asOf"}


def test_the_commands_of_the_guide_do_what_they_say_one_after_the_other(applied: Settings) -> None:
    (console,) = blocks("console")
    # A grant's life is at most 400 days from today, whenever that is.
    console = console.replace("2026-12-31", str(datetime.now(UTC).date() + timedelta(days=40)))
    for line in console.splitlines():
        words = shlex.split(line.removeprefix("$ meterline plans "))
        result = CliRunner().invoke(plans_command.command, words, env=environment(applied))
        assert result.exit_code == 0, (line, result.output, result.exception)
        assert not result.output.startswith("nothing to do")
    with connect(applied) as connection:
        tenant = catalog.load_catalog(connection).tenants["tnt_docs"]
    assert tenant.limits is not None
    assert set(tenant.limits) == {"STORAGE"}
    assert set(tenant.grants) == {"outage-2026-11"}


def test_every_reason_period_and_policy_is_in_the_guide_and_in_the_openapi_document() -> None:
    schemas = document("1")["components"]["schemas"]
    assert set(table("reason")) == {reason.value for reason in Reason} == set(schemas["Reason"]["enum"])
    kinds = set(get_args(PeriodKind))
    assert set(table("period")) == kinds
    shown = schemas["SummaryLine"]["properties"]["limitPeriod"]
    assert {name for choice in shown["anyOf"] for name in choice.get("enum", [])} == kinds
    assert set(table("`when_unavailable`")) - {""} == set(get_args(WhenUnavailable))


def test_the_guide_says_of_each_reason_whether_it_allows() -> None:
    said = dict(re.findall(r"^\| `([a-z_]+)` \| (yes|no) \|", GUIDE, re.MULTILINE))
    allowing = {Reason.WITHIN_PLAN, Reason.OVERAGE, Reason.UNLIMITED, Reason.DEGRADED_ALLOW}
    assert {name for name, allows in said.items() if allows == "yes"} == {reason.value for reason in allowing}


def test_every_state_of_a_subscription_is_in_the_guide(applied: Settings) -> None:
    with connect(applied) as connection:
        row = connection.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'tenants_subscription_status_check'"
        ).fetchone()
    assert row is not None
    states = set(re.findall(r"'([a-z_]+)'", row[0]))
    (letting, not_letting) = re.findall(r"while (?:its state|it) is ((?:[^;.]|\n)+)[;.]", GUIDE)
    assert set(re.findall(r"`([a-z_]+)`", letting)) == LET_IN
    assert set(re.findall(r"`([a-z_]+)`", not_letting)) == states - LET_IN
