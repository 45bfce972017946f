"""The commands as a user runs them: real Postgres, real ClickHouse, the official SDK against a local Stripe."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from metering.periods import month
from runtime import clickhouse, postgres
from runtime.exits import Exit
from runtime.settings import Settings
from store.migrate import migrate_clickhouse, migrate_postgres
from tests.fakes.local_stripe_server import LocalStripeServer

TODAY = datetime.now(UTC).date()
EARLIER = month(TODAY).start - timedelta(days=2)
"""In the month before: a running month and a past one are both exported."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture(scope="module")
def counted(settings: Settings) -> Settings:
    """Events of two tenants in ClickHouse, and counters of them in Postgres; tenant `b` was counted wrong."""
    migrate_postgres(settings)
    migrate_clickhouse(settings)
    events = [("a", TODAY, "1.5"), ("a", EARLIER, "0.25"), ("b", TODAY, "3"), ("c", TODAY, "0.000001")]
    # the last one is in ClickHouse and not counted yet: it stands behind the fence
    stored = [*events, ("a", TODAY, "9")]
    with clickhouse.client(settings) as client:
        for offset, (tenant, on, quantity) in enumerate(stored):
            version = (1 << 64) - 1 - (1 << 48 | offset)
            client.command(
                "INSERT INTO usage_events (tenant_id, usage_type, source_service, source_entity_id, quantity, kind, occurred_at,"
                " log_epoch, kafka_partition, kafka_offset, row_version) VALUES"
                f" ('{tenant}', 'DEEP', 's', 'e{offset}', {quantity}, 'usage', '{on} 00:00:00', 1, 0, {offset}, {version})"
            )
    with postgres.connect(settings) as connection:
        connection.execute("INSERT INTO meters VALUES ('units', 1000000, 'floor', 'last')")
        connection.execute("INSERT INTO usage_types (usage_type, meter) VALUES ('DEEP', 'units')")
        connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ('a', 'A & Co'), ('b', ''), ('c', '\u00fc')")
        connection.execute(
            "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (1, 't', 'c', 'i', 1, '{0}')"
        )
        connection.execute(
            "INSERT INTO delta_fences (epoch, partition, next_offset, rules_version, admitted) VALUES (1, 0, %s, 1, %s)",
            (len(events), len(events)),
        )
        for tenant, on, quantity in events:
            wrong = Decimal("0.5") if tenant == "b" else Decimal(0)
            connection.execute(
                "INSERT INTO usage_counters VALUES (%s, 'DEEP', %s, %s, 1)", (tenant, on, Decimal(quantity) + wrong)
            )
    return settings


def meterline(
    settings: Settings, server: LocalStripeServer, *words: str, key: str | None = None, crash_at: str = ""
) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words],
        env={
            "PATH": "/usr/bin:/bin",
            "METERLINE_POSTGRES_URL": settings.postgres_url.get_secret_value(),
            "METERLINE_CLICKHOUSE_URL": settings.clickhouse_url,
            "METERLINE_CLICKHOUSE_USER": settings.clickhouse_user,
            "METERLINE_CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
            "METERLINE_STRIPE_SECRET_KEY": key if key is not None else server.key,
            "METERLINE_STRIPE_API_BASE": server.url,
            "METERLINE_CRASH_AT": crash_at,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_commands_bring_two_months_to_stripe_and_hold_what_clickhouse_denies(
    counted: Settings, server: LocalStripeServer
) -> None:
    def json_of(*words: str, status: int = 0) -> dict[str, Any]:
        code, out, err = meterline(counted, server, *words, "--json")
        assert code == status, err
        document: dict[str, Any] = json.loads(out)
        return document

    # nobody can be asked, and nothing happens
    code, out, err = meterline(counted, server, "stripe", "setup")
    assert code == Exit.USAGE, err
    assert "create" in out
    assert list(server.client().v1.customers.list().data) == []
    assert meterline(counted, server, "stripe", "setup", "--yes")[0] == 0
    assert json_of("stripe", "setup") == json_of("stripe", "setup")

    planned = json_of("export", "plan")
    assert {(line["tenant"], line["total"], line["action"]) for line in planned["lines"]} == {
        ("a", "0.25", "insert"),
        ("a", "1.5", "insert"),
        ("b", "3.5", "insert"),
        ("c", "0.000001", "insert"),
    }
    report = json_of("export", "run", status=1)
    assert report["states"] == {"accepted": 3}
    assert "clickhouse 3, counters 3.5, difference -0.5" in report["held"]["b"]
    assert [(row["tenant"], row["state"]) for row in report["open"]] == [("b", "planned")]

    compared = json_of("export", "reconcile")
    assert compared["by_verdict"] == {"equal": 3}
    assert compared["expected_quantity"] == compared["stripe_quantity"] == "1.750001"

    with postgres.connect(counted) as connection:
        connection.execute("UPDATE usage_counters SET quantity = 3 WHERE tenant_id = 'b'")
    assert json_of("export", "run", "--period", f"{TODAY:%Y-%m}")["ok"]
    assert json_of("export", "status")["by_state"] == {"accepted": 1, "confirmed": 3}
    assert json_of("export", "status", "--period", f"{EARLIER:%Y-%m}")["by_state"] == {"confirmed": 1}
    for words in (("plan",), ("status",), ("reconcile",), ("run", "--all-periods")):
        code, out, err = meterline(counted, server, "export", *words)
        assert code == 0, err
        assert out


def test_a_wrong_key_a_wrong_month_and_an_absent_stripe_end_with_a_remedy(counted: Settings, server: LocalStripeServer) -> None:
    for words, key, code, told in (
        (("export", "run"), "sk_test_of_someone_else", Exit.SETTINGS, "METERLINE_STRIPE_SECRET_KEY"),
        (("export", "run"), "", Exit.SETTINGS, "METERLINE_STRIPE_SECRET_KEY"),
        (("export", "run"), "sk_live_of_someone", Exit.SETTINGS, "live key"),
        (("stripe", "setup"), "sk_test_of_someone_else", Exit.SETTINGS, "METERLINE_STRIPE_SECRET_KEY"),
        (("export", "plan", "--period", "2026-13"), None, Exit.USAGE, "2026-10"),
        (("export", "plan", "--period", "2026-10", "--all-periods"), None, Exit.USAGE, "both"),
    ):
        status, _, err = meterline(counted, server, *words, key=key)
        assert (status, told in err) == (code, True), (words, key, err)
    server.stop()
    try:
        status, _, err = meterline(counted, server, "export", "run")
    finally:
        server.start()
    assert status == Exit.UNREACHABLE
    assert "Stripe does not answer" in err


def test_a_run_that_is_killed_at_any_point_is_finished_by_the_next_one(counted: Settings, server: LocalStripeServer) -> None:
    assert meterline(counted, server, "stripe", "setup", "--yes")[0] == 0
    with postgres.connect(counted) as connection:
        connection.execute("UPDATE usage_counters SET quantity = 3 WHERE tenant_id = 'b'")
        # the event behind the fence is counted now
        connection.execute("UPDATE delta_fences SET next_offset = 5, admitted = 5")
        connection.execute("UPDATE usage_counters SET quantity = 10.5 WHERE tenant_id = 'a' AND day = %s", (TODAY,))
    for point in ("before_sending", "posted", "before_accepted"):
        assert meterline(counted, server, "export", "run", crash_at=f"exporter.{point}:1")[0] == -signal.SIGKILL, point
        with postgres.connect(counted) as connection:
            left = connection.execute("SELECT count(*) FROM export_ledger WHERE state = 'sending'").fetchone()
            # its lease would end by itself, within a minute
            connection.execute("UPDATE export_ledger SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL")
        assert left is not None
        assert left[0] >= (point != "before_sending")
    code, out, err = meterline(counted, server, "export", "run", "--json")
    assert code == 0, (out, err)
    code, out, err = meterline(counted, server, "export", "reconcile", "--json")
    compared = json.loads(out)
    assert (code, compared["by_verdict"]) == (0, {"equal": 4}), err
    assert compared["expected_quantity"] == compared["stripe_quantity"] == "13.750001"
