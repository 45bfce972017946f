"""The catalog in Postgres: applied in one transaction, versioned, audited, and never taken from under somebody."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from cli.commands import plans as plans_command
from metering.rates import ModelPrice, Tokens
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings, variables
from store import catalog, rates
from store.catalog import Catalog, Change
from store.catalog_file import parse_catalog, read_catalog
from store.migrate import migrate_postgres

EXAMPLE = Path(__file__).parents[2] / "examples" / "plans.yaml"

SMALL = """
features:
  f: {description: a feature}
meters:
  m: {}
usage_types:
  U: {unit: piece, feature: f, meter: m}
  V: {}
plans:
  p:
    name: P
    features: {f: true}
    limits:
      U: {limit: 10.5, enforce: soft, overage_price: 0.25, period: billing_period}
      V: {limit: unlimited, period: day}
  q: {name: Q}
tenants:
  t: {name: T, plan: p, anchor_day: 31}
"""


@pytest.fixture(scope="module")
def schema(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def connection(schema: Settings) -> Iterator[psycopg.Connection[Any]]:
    """An empty catalog. `apply` commits what it does, so the tables are emptied before each test."""
    with postgres.connect(schema, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE catalog_versions, meters, features, usage_types, rates, plans, tenants, audit, usage_totals, export_ledger"
            " RESTART IDENTITY CASCADE"
        )
        yield connection


def small(*replaced: tuple[str, str]) -> Catalog:
    text = SMALL
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return parse_catalog(text)


def audited(connection: psycopg.Connection[Any]) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT who, what, subject FROM audit ORDER BY id").fetchall()


def test_what_is_applied_is_what_is_read_back(connection: psycopg.Connection[Any]) -> None:
    wanted, text = read_catalog(EXAMPLE)
    assert catalog.apply(connection, wanted, by="tester", source=text) == 1
    assert catalog.load_catalog(connection) == wanted
    assert connection.execute("SELECT source, applied_by FROM catalog_versions").fetchall() == [(text, "tester")]
    limit = catalog.load_catalog(connection).plans["starter"].limits["RENDER"]
    assert (limit.limit, limit.hard, limit.period) == (Decimal("7.5"), True, "day")


RATES = """
rates:
  aurora:
    per_tokens: 1000000
    prices:
      2026-01-01: {input: 300, output: 1500.5, cached: 30}
      2026-10-01: {input: 250, output: 1200, until: 2027-01-01}
  upscale: {prices: {2026-01-01: {each: 12}}}
plans:
  p: {name: P, credit_overrun: held}
tenants:
  t: {plan: p}
"""


def test_rates_are_shown_changed_and_asked_for_by_day(connection: psycopg.Connection[Any]) -> None:
    catalog.apply(connection, parse_catalog(RATES), by="tester")
    assert catalog.load_catalog(connection) == parse_catalog(RATES)
    (change,) = catalog.diff(connection, parse_catalog(RATES.replace("1200", "1100")))
    assert (change.section, change.fields()) == ("rates", [("prices.2026-10-01.output", "1200", "1100")])

    def cost(day: date) -> int:
        return rates.model_price(connection, "aurora", day).cost(Tokens(1000, 1000, 1000))

    assert cost(date(2026, 9, 30)) == 1_830_500
    assert cost(date(2026, 10, 1)) == 1_700_000
    price = rates.model_price(connection, "aurora", date(2026, 12, 31))
    assert ModelPrice.of_json(json.loads(json.dumps(price.as_json()))) == price
    assert rates.operation_price(connection, "upscale", date(2026, 1, 1)).cost(3) == 36_000_000
    for code, asked in (
        ("rate_not_valid", lambda: rates.model_price(connection, "aurora", date(2027, 1, 1))),
        ("rate_not_valid", lambda: rates.model_price(connection, "aurora", date(2025, 12, 31))),
        ("unknown_model", lambda: rates.model_price(connection, "upscale", date(2026, 1, 1))),
        ("unknown_model", lambda: rates.model_price(connection, "nobody", date(2026, 1, 1))),
        ("unknown_operation", lambda: rates.operation_price(connection, "aurora", date(2026, 1, 1))),
    ):
        with pytest.raises(rates.RateRefused) as refused:
            asked()
        assert refused.value.code == code
    assert [rates.overrun_of(connection, tenant) for tenant in ("t", "nobody")] == ["held", "balance"]
    catalog.apply(connection, small(), by="tester")
    assert catalog.load_catalog(connection).rates == {}


def test_applying_it_again_is_no_new_version_and_no_audit(connection: psycopg.Connection[Any]) -> None:
    assert catalog.apply(connection, small(), by="tester") == 1
    before = audited(connection)
    assert catalog.diff(connection, small()) == []
    assert catalog.apply(connection, small(("10.5", "10.500")), by="tester") is None
    assert catalog.current_version(connection) == 1
    assert audited(connection) == before


def test_the_diff_says_what_is_added_changed_and_removed_with_before_and_after(connection: psycopg.Connection[Any]) -> None:
    catalog.apply(connection, small(), by="tester")
    wanted = small(("limit: 10.5", "limit: 12"), ("  q: {name: Q}", "  r: {name: R}"), ("a feature", "another text"))
    changes = catalog.diff(connection, wanted)
    assert [(change.section, change.name, change.action) for change in changes] == [
        ("features", "f", "changed"),
        ("plans", "p", "changed"),
        ("plans", "r", "added"),
        ("plans", "q", "removed"),
    ]
    assert changes[0].fields() == [("description", "a feature", "another text")]
    assert changes[1].fields() == [
        ("limits.U", "10.5 per billing_period, soft, overage at 0.25", "12 per billing_period, soft, overage at 0.25")
    ]
    assert changes[2].fields() == [("name", "", "R"), ("alerts", "", "80, 100, 120"), ("credit_overrun", "", "balance")]
    assert changes[3].fields() == [("name", "Q", ""), ("alerts", "80, 100, 120", ""), ("credit_overrun", "balance", "")]


def test_a_change_is_a_version_and_an_audit_row_for_each_entry(connection: psycopg.Connection[Any]) -> None:
    catalog.apply(connection, small(), by="anna")
    first = len(audited(connection))
    assert first == 1 + 1 + 2 + 2 + 1
    wanted = small(("limit: 10.5", "limit: 12"), ("  q: {name: Q}\n", ""))
    assert catalog.apply(connection, wanted, by="bert") == 2
    assert audited(connection)[first:] == [("bert", "catalog.plan.changed", "p"), ("bert", "catalog.plan.removed", "q")]
    row = connection.execute("SELECT before, after FROM audit WHERE what = 'catalog.plan.changed'").fetchone()
    assert row is not None
    assert (row[0]["limits"]["U"]["limit"], row[1]["limits"]["U"]["limit"]) == ("10.5", "12")
    assert catalog.load_catalog(connection) == wanted


def test_what_nothing_references_may_go(connection: psycopg.Connection[Any]) -> None:
    catalog.apply(connection, small(), by="tester")
    wanted = parse_catalog("tenants:\n  t: {name: T, status: inactive}\n")
    catalog.apply(connection, wanted, by="tester")
    assert catalog.load_catalog(connection) == wanted


def test_a_tenant_that_the_file_does_not_name_is_left_alone(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO tenants (tenant_id, name, stripe_customer_id) VALUES ('signed_up', 'S', 'cus_1')")
    catalog.apply(connection, small(), by="tester")
    assert catalog.diff(connection, small()) == []
    assert set(catalog.load_catalog(connection).tenants) == {"signed_up", "t"}


def test_what_other_parts_wrote_into_a_tenant_stays(connection: psycopg.Connection[Any]) -> None:
    catalog.apply(connection, small(), by="tester")
    connection.execute("UPDATE tenants SET stripe_customer_id = 'cus_9'")
    catalog.apply(connection, small(("anchor_day: 31", "anchor_day: 30")), by="tester")
    row = connection.execute("SELECT anchor_day, stripe_customer_id FROM tenants").fetchone()
    assert row == (30, "cus_9")


OWN = """{name: T, plan: p, anchor_day: 31,
     features: {f: false},
     limits: {V: {limit: 3, period: lifetime, when_unavailable: fail_open}},
     grants: {spring: {usage_type: U, quantity: 5.5, valid_from: 2026-03-01, expires_on: 2026-06-01, note: sorry}}}"""
WITH_OWN = ("{name: T, plan: p, anchor_day: 31}", OWN)


def test_what_is_a_tenants_own_is_read_back_and_stays_while_a_file_does_not_speak_of_it(
    connection: psycopg.Connection[Any],
) -> None:
    catalog.apply(connection, small(WITH_OWN, ("name: P", "name: P\n    alerts: [50, 90]")), by="tester")
    standing = catalog.load_catalog(connection)
    own = standing.tenants["t"]
    assert own.features == {"f": False}
    assert own.limits is not None
    assert (own.limits["V"].limit, own.limits["V"].when_unavailable) == (Decimal(3), "fail_open")
    assert (own.grants["spring"].quantity, str(own.grants["spring"].expires_on)) == (Decimal("5.5"), "2026-06-01")
    assert standing.plans["p"].alerts == (50, 90)
    # The file of before names the tenant, and says nothing of all this.
    catalog.apply(connection, small(), by="tester")
    assert catalog.load_catalog(connection).tenants["t"] == own
    # Said to be none, limits and features are taken away; a grant that was made is not.
    catalog.apply(connection, small((WITH_OWN[0], "{name: T, plan: p, anchor_day: 31, limits: {}, features: {}}")), by="tester")
    left = catalog.load_catalog(connection).tenants["t"]
    assert (left.limits, left.features, left.grants) == (None, None, own.grants)


WITHOUT_V = (("  V: {}\n", ""), ("      V: {limit: unlimited, period: day}\n", ""))
LEDGER_ROW = (
    "INSERT INTO export_ledger (account, livemode, tenant_id, customer_id, meter, period_start, period_end, revision, identifier,"
    " exact_total, value, remainder, event_time, positions, state)"
    " VALUES ('a', false, 't', 'cus', 'm', '2026-11-01', '2026-12-01', 1, 'i', 1.5, 1, 0.5, now(), '{}', 'planned')"
)


@pytest.mark.parametrize(
    ("before", "replaced", "told"),
    [
        ("INSERT INTO usage_totals VALUES ('t', 'V', 1, now())", WITHOUT_V, "usage type V: usage of it is counted"),
        (
            "INSERT INTO tenants (tenant_id, plan_id) VALUES ('u', 'q')",
            (("  q: {name: Q}\n", ""),),
            "plan q: 1 tenants are on it that the file leaves there, u for one",
        ),
        (
            "INSERT INTO tenants (tenant_id, plan_id) VALUES ('u', 'p');"
            " INSERT INTO tenant_limits (tenant_id, usage_type, quantity, hard, period) VALUES ('u', 'V', 1, true, 'day')",
            WITHOUT_V,
            "usage type V: u has it in its limits; take that away first",
        ),
        (LEDGER_ROW, (("  m: {}", "  n: {}"), ("meter: m", "meter: n")), "meter m: totals were sent to it; keep its entry"),
        (LEDGER_ROW, (("  m: {}", "  m: {scale: 1000}"),), "keep its entry and its scale"),
    ],
)
def test_what_is_still_referenced_is_not_taken_away_and_nothing_else_is_changed(
    connection: psycopg.Connection[Any], before: str, replaced: tuple[tuple[str, str], ...], told: str
) -> None:
    catalog.apply(connection, small(), by="tester")
    connection.execute(before.encode())
    wanted = small(*replaced, ("a feature", "another text"))
    with pytest.raises(MeterlineExit, match="the catalog was not changed") as refusal:
        catalog.apply(connection, wanted, by="tester")
    assert told in str(refusal.value)
    assert catalog.current_version(connection) == 1
    assert catalog.load_catalog(connection).features["f"].description == "a feature"


def test_a_plan_goes_when_its_tenants_move_in_the_same_file(connection: psycopg.Connection[Any]) -> None:
    catalog.apply(connection, small(("plan: p", "plan: q")), by="tester")
    assert catalog.apply(connection, small(("  q: {name: Q}\n", "")), by="tester") == 2


def test_a_change_made_by_somebody_else_meanwhile_is_not_overwritten(connection: psycopg.Connection[Any]) -> None:
    catalog.apply(connection, small(), by="tester")
    mine = small(("limit: 10.5", "limit: 12"))
    shown = catalog.diff(connection, mine)
    catalog.apply(connection, small(("limit: 10.5", "limit: 99")), by="somebody else")
    with pytest.raises(MeterlineExit, match="changed by somebody else"):
        catalog.apply(connection, mine, by="tester", expected=shown)
    assert catalog.load_catalog(connection).plans["p"].limits["U"].limit == 99


def test_a_second_apply_waits_for_the_first_and_then_finds_nothing_to_do(
    connection: psycopg.Connection[Any], schema: Settings
) -> None:
    def second() -> int | None:
        with postgres.connect(schema) as own:
            return catalog.apply(own, small(), by="second")

    with postgres.connect(schema) as first, ThreadPoolExecutor(1) as threads:
        assert catalog.diff(first, small())  # opens the transaction that apply is a part of
        assert catalog.apply(first, small(), by="first") == 1
        answer = threads.submit(second)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        deadline = time.monotonic() + 10
        while connection.execute(waiting).fetchone() == (0,):
            assert time.monotonic() < deadline, "the second one did not wait"
        first.commit()
        assert answer.result(timeout=10) is None
    assert catalog.load_catalog(connection) == small()


def test_a_catalog_made_in_code_with_a_dangling_name_is_refused(connection: psycopg.Connection[Any]) -> None:
    broken = Catalog.model_validate({"tenants": {"t": {"plan": "nowhere"}}})
    with pytest.raises(MeterlineExit, match=r"tenants\.t\.plan: nowhere is not in plans"):
        catalog.apply(connection, broken, by="tester")


# -- the command ---------------------------------------------------------------------------------------------------


def run(settings: Settings, *arguments: str) -> Result:
    environment = {variables()["postgres_url"][0]: settings.postgres_url.get_secret_value()}
    return CliRunner().invoke(plans_command.command, arguments, env=environment)


def test_the_command_shows_the_diff_and_needs_a_yes(
    connection: psycopg.Connection[Any], schema: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(SMALL)
    asked = run(schema, "apply", str(file))
    assert isinstance(asked.exception, MeterlineExit)
    assert asked.exception.code is Exit.USAGE
    assert "10.5 per billing_period, soft, overage at 0.25" in asked.stdout
    assert catalog.current_version(connection) is None
    applied = run(schema, "apply", str(file), "--yes", "--json")
    assert json.loads(applied.stdout)["version"] == 1
    again = run(schema, "apply", str(file))
    assert again.stdout == "nothing to do: version 1 stands\n"
    assert json.loads(run(schema, "show", "--json").stdout)["plans"]["p"]["limits"]["U"]["limit"] == "10.5"
    assert "allowed at 0.25" in run(schema, "show").stdout


def test_the_command_tells_what_is_wrong_with_the_file(schema: Settings, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text("plans:\n  p: {nme: P}\n")
    result = run(schema, "apply", str(file), "--yes")
    assert isinstance(result.exception, MeterlineExit)
    assert f"{file}:2: plans.p.nme: no such field" in str(result.exception)


def test_the_fields_of_a_change_name_everything_that_differs() -> None:
    change = Change("tenants", "t", "changed", {"name": "T", "plan": None}, {"name": "T", "plan": "p", "status": "active"})
    assert change.fields() == [("plan", "", "p"), ("status", "", "active")]
