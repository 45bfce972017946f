"""Grants, limits of one tenant and simulations, by their commands on real stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from cli.commands import plans as plans_command
from runtime import clickhouse, postgres
from runtime.exits import MeterlineExit
from runtime.settings import Settings
from store import catalog
from store.catalog_file import parse_catalog
from tests.integration.serving import environment

CATALOG = """
features: {f: {}}
usage_types: {U: {feature: f}, V: {}, W: {}}
plans:
  p:
    name: P
    features: {f: true}
    limits:
      U: {limit: 10, period: month}
      V: {limit: unlimited, period: month}
tenants:
  a: {plan: p}
  b: {plan: p}
  c: {plan: p, grants: {extra: {usage_type: U, quantity: 3, valid_from: 2026-10-01, expires_on: 2026-11-01}}}
"""


@pytest.fixture(scope="module")
def applied(migrated: Settings) -> Settings:
    with postgres.connect(migrated, autocommit=True) as connection:
        catalog.apply(connection, parse_catalog(CATALOG), by="tester")
    return migrated


@pytest.fixture
def connection(applied: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(applied, autocommit=True) as connection:
        yield connection


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(plans_command.command, arguments, env=environment(settings))


def refused(result: Result) -> str:
    assert isinstance(result.exception, MeterlineExit), result.output
    return str(result.exception)


def audited(connection: psycopg.Connection[Any], tenant: str) -> list[tuple[Any, Any]]:
    return connection.execute(
        "SELECT before, after FROM audit WHERE what = 'catalog.tenant.changed' AND subject = %s ORDER BY id", (tenant,)
    ).fetchall()


def test_a_grant_is_made_once_listed_and_ended(applied: Settings, connection: psycopg.Connection[Any]) -> None:
    today = datetime.now(UTC).date()
    expires = str(today + timedelta(days=30))
    give = ("grant", "a", "U", "2.5", "--expires", expires, "--id", "sorry", "--note", "the outage", "--json")
    assert json.loads(run(applied, *give).stdout) == {"changed": True, "grant": "sorry"}
    assert json.loads(run(applied, *give).stdout)["changed"] is False
    before, after = audited(connection, "a")[0]
    assert (before["grants"], after["grants"]["sorry"]["quantity"]) == ({}, "2.5")
    assert len(audited(connection, "a")) == 1
    other = ("grant", "a", "U", "3", "--expires", expires, "--id", "sorry")
    assert "another grant sorry" in refused(run(applied, *other))
    listed = json.loads(run(applied, "grants", "a", "--json").stdout)["grants"]
    assert listed == {
        "sorry": {"usage_type": "U", "quantity": "2.5", "valid_from": str(today), "expires_on": expires, "note": "the outage"}
    }
    assert "the outage" in run(applied, "grants", "a").stdout
    # The file says nothing of it, and leaves it.
    catalog.apply(connection, parse_catalog(CATALOG), by="tester")
    assert run(applied, "revoke", "a", "sorry").stdout == "a: grant sorry has ended\n"
    assert run(applied, "revoke", "a", "sorry").stdout.startswith("nothing to do")
    assert json.loads(run(applied, "grants", "a", "--json").stdout)["grants"]["sorry"]["expires_on"] == str(today)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nobody", "U", "1"), "there is no tenant nobody"),
        (("a", "W", "1"), "does not name W"),
        (("a", "V", "1"), "does not limit V"),
        (("a", "X", "1"), "X is not in usage_types"),
    ],
)
def test_a_grant_that_adds_to_nothing_is_refused(applied: Settings, arguments: tuple[str, ...], told: str) -> None:
    expires = str(datetime.now(UTC).date() + timedelta(days=1))
    assert told in refused(run(applied, "grant", *arguments, "--expires", expires))


@pytest.mark.parametrize(
    ("quantity", "expires", "told"),
    [
        ("-1", "2100-01-01", "quantity"),
        ("0", "2100-01-01", "quantity"),
        ("1", "2100-01-01", "400 days"),
        ("1", "soon", "want a day"),
    ],
)
def test_a_grant_that_makes_no_sense_is_a_wrong_call(applied: Settings, quantity: str, expires: str, told: str) -> None:
    result = run(applied, "grant", "--expires", expires, "a", "U", "--", quantity)
    assert result.exit_code == 2
    assert told in result.output


def test_a_limit_of_ones_own_is_set_and_taken_away(applied: Settings, connection: psycopg.Connection[Any]) -> None:
    own = ("override", "b", "W", "--limit", "7", "--period", "day", "--soft", "--overage-price", "0.5")
    assert run(applied, *own).stdout == "b: 7 of W per day\n"
    limits = catalog.load_catalog(connection).tenants["b"].limits
    assert limits is not None
    assert (str(limits["W"].limit), limits["W"].enforce, str(limits["W"].overage_price)) == ("7", "soft", "0.5")
    assert run(applied, *own).stdout.startswith("nothing to do")
    assert run(applied, "override", "b", "W", "--clear").exit_code == 0
    assert catalog.load_catalog(connection).tenants["b"].limits is None
    assert len(audited(connection, "b")) == 2
    for wrong in (("--limit", "7"), ("--clear", "--limit", "7", "--period", "day"), ()):
        assert run(applied, "override", "b", "W", *wrong).exit_code == 2


EVENTS = [
    # (tenant, type, day, quantity): the change halves U for everybody.
    ("a", "U", date(2026, 9, 30), 1_000),
    ("a", "U", date(2026, 10, 1), 4),
    ("a", "U", date(2026, 10, 2), 3),
    ("a", "U", date(2026, 10, 3), 1),
    ("a", "V", date(2026, 10, 3), 50),
    ("b", "U", date(2026, 10, 5), 5),
    ("c", "U", date(2026, 10, 5), 8),
    ("c", "U", date(2026, 10, 6), 5),
    ("nobody", "U", date(2026, 10, 6), 5),
]


@pytest.fixture(scope="module")
def logged(applied: Settings) -> Settings:
    """October in ClickHouse, each row twice, as after a repeated insert."""
    client = clickhouse.client(applied)
    rows = ", ".join(
        f"('{tenant}', '{usage_type}', 's', 'e{offset}', {quantity}, 'usage', '', '{day} 10:00:00', '{day} 10:00:00', '',"
        f" 1, 0, {offset}, {offset}, 0, 0, 1, bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), toUInt64({offset}))))"
        for offset, (tenant, usage_type, day, quantity) in enumerate(EVENTS)
    )
    for _ in range(2):
        client.command(
            "INSERT INTO usage_events (tenant_id, usage_type, source_service, source_entity_id, quantity, kind, corrects,"
            " occurred_at, ingested_at, metadata, log_epoch, kafka_partition, kafka_offset, key_hash, key_murmur2, row_hash,"
            f" rules_version, row_version) VALUES {rows}"
        )
    client.close()
    return applied


def test_a_simulation_says_whom_a_change_would_have_denied_and_how_often(logged: Settings, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(CATALOG.replace("limit: 10,", "limit: 5,"))
    said = json.loads(run(logged, "simulate", str(file), "--over", "2026-10", "--json").stdout)
    assert said == {
        "period": "2026-10",
        "checks": 8,
        "newlyDenied": 2,
        "newlyAllowed": 0,
        "effects": [
            # 4 of 5 are used, 3 do not fit, 1 does.
            {"tenantId": "a", "usageType": "U", "checks": 3, "deniedNow": 0, "denied": 1, "reason": "limit_exceeded"},
            # 5 and a grant of 3 hold the 8; of 10 and 3 all 13 were held.
            {"tenantId": "c", "usageType": "U", "checks": 2, "deniedNow": 0, "denied": 1, "reason": "limit_exceeded"},
        ],
    }
    assert "2 more denied, of 2 tenants; 0 more allowed" in run(logged, "simulate", str(file), "--over", "2026-10").stdout


def test_a_simulation_sees_features_that_go_and_limits_that_reach_back(logged: Settings, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(CATALOG.replace("{f: true}", "{f: false}"))
    effects = json.loads(run(logged, "simulate", str(file), "--over", "2026-10", "--json").stdout)["effects"]
    assert [(one["tenantId"], one["denied"], one["reason"]) for one in effects] == [
        ("a", 3, "feature_disabled"),
        ("b", 1, "feature_disabled"),
        ("c", 2, "feature_disabled"),
    ]
    file.write_text(CATALOG.replace("limit: 10, period: month", "limit: 1003, period: lifetime"))
    effects = json.loads(run(logged, "simulate", str(file), "--over", "2026-10", "--json").stdout)["effects"]
    # 1000 were used before: 4 more do not fit, 3 do, and then 1 does not.
    assert [(one["tenantId"], one["denied"]) for one in effects] == [("a", 2)]


def test_a_simulation_changes_nothing_and_wants_a_month(logged: Settings, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(CATALOG)
    said = json.loads(run(logged, "simulate", str(file), "--over", "2026-10", "--json").stdout)
    assert (said["effects"], said["newlyDenied"]) == ([], 0)
    assert run(logged, "simulate", str(file), "--over", "October").exit_code == 2
