"""Statements on real ClickHouse and Postgres: their lines are the close's totals, with late events and corrections, for ever."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from clickhouse_connect.driver.client import Client

from billing_exporter.closing import close_due
from billing_exporter.gateway import Account
from billing_exporter.statements.formats import CSV_COLUMNS, as_csv, as_document, as_page
from billing_exporter.statements.statement import DoesNotAddUp, Statement, statement_of
from billing_exporter.truth import clickhouse_totals
from runtime import clickhouse, postgres
from runtime.settings import Settings

ACCOUNT = Account("acct_1", False)
GRACE = timedelta(minutes=30)
NOW = datetime(2027, 3, 1, tzinfo=UTC)
MINUS = Decimal(-1)
BASE = "https://usage.example.com/"


@dataclass
class Log:
    """Events in ClickHouse, counted in Postgres one by one."""

    settings: Settings
    connection: psycopg.Connection[Any]
    client: Client
    offsets: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})

    def add(
        self, day: str, quantity: str, service: str = "worker", usage_type: str = "DEEP", tenant: str = "a", *, count: bool = True
    ) -> None:
        """An event, negative ones as corrections, by turns to one of two partitions. ClickHouse has two copies of each."""
        partition = sum(self.offsets.values()) % 2
        offset = self.offsets[partition]
        self.offsets[partition] = offset + 1
        kind, corrects = ("correction", "1:s,1:e,1:U,") if quantity.startswith("-") else ("usage", "")
        version = (1 << 64) - 1 - (1 << 48 | offset)
        row = (
            f"('{tenant}', '{usage_type}', '{service}', 'e{partition}-{offset}', {quantity}, '{kind}', '{corrects}',"
            f" '{day} 12:00:00', 1, {partition}, {offset}, {version})"
        )
        self.client.command(
            "INSERT INTO usage_events (tenant_id, usage_type, source_service, source_entity_id, quantity, kind, corrects,"
            f" occurred_at, log_epoch, kafka_partition, kafka_offset, row_version) VALUES {row}, {row}"
        )
        if not count:
            return
        with self.connection.transaction():
            self.connection.execute(
                "INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1) ON CONFLICT (tenant_id, usage_type, day) DO UPDATE"
                " SET quantity = usage_counters.quantity + excluded.quantity, events = usage_counters.events + 1",
                (tenant, usage_type, day, Decimal(quantity)),
            )
            self.connection.execute(
                "INSERT INTO usage_totals VALUES (%s, %s, %s, now()) ON CONFLICT (tenant_id, usage_type) DO UPDATE"
                " SET quantity = usage_totals.quantity + excluded.quantity",
                (tenant, usage_type, Decimal(quantity)),
            )
            self.connection.execute(
                "UPDATE delta_fences SET next_offset = next_offset + 1, admitted = admitted + 1 WHERE partition = %s",
                (partition,),
            )

    def close(self, until: str) -> None:
        """Closes every period that ended before the day."""
        ended = datetime.fromisoformat(until).replace(tzinfo=UTC) + GRACE
        self.connection.execute("DELETE FROM freshness_samples")
        self.connection.execute(
            "INSERT INTO freshness_samples SELECT 1, %s, %s, array_agg(next_offset ORDER BY partition) FROM delta_fences",
            (ended, ended),
        )
        with postgres.connect(self.settings) as connection:
            assert not close_due(connection, ACCOUNT, clickhouse_totals(self.settings), NOW, GRACE).refused

    def statement(self, month: str, tenant: str = "a") -> Statement:
        with postgres.connect(self.settings) as connection:
            return statement_of(connection, self.client, tenant, month, NOW)


@pytest.fixture
def log(migrated: Settings) -> Iterator[Log]:
    with postgres.connect(migrated, autocommit=True) as connection, clickhouse.client(migrated) as client:
        client.command("TRUNCATE TABLE usage_events")
        connection.execute(
            "TRUNCATE period_closes, export_finals, export_ledger, export_mappings, export_carries, usage_counters, usage_totals,"
            " freshness_samples, delta_fences, epochs, tenants, usage_types, meters CASCADE"
        )
        connection.execute("INSERT INTO meters VALUES ('deep', 1000, 'floor', 'last')")
        connection.execute(
            "INSERT INTO usage_types (usage_type, description, unit, meter) VALUES ('DEEP', 'Deep <looks>', 'look', 'deep'),"
            " ('CALL', '', '', NULL)"
        )
        connection.execute("INSERT INTO tenants (tenant_id, name) VALUES ('a', 'A & Söhne'), ('b', '')")
        connection.execute(
            "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (1, 't', 'c', 'i', 2, '{0,0}')"
        )
        connection.execute(
            "INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (1, 0, 0, 1), (1, 1, 0, 1)"
        )
        yield Log(migrated, connection, client)


@pytest.fixture
def two_months(log: Log) -> Log:
    """November closed, with what came late in December; December closed, with what came late in January."""
    log.add("2026-11-03", "1.5")
    log.add("2026-11-03", "0.25", "batch")
    log.add("2026-11-30", "-0.000001")
    log.add("2026-11-05", "7", usage_type="CALL")
    log.add("2026-11-05", "100", tenant="b")
    log.close("2026-12-01")
    log.add("2026-11-30", "2", "slow")
    log.add("2026-12-01", "4")
    log.add("2026-12-31", "-0.5", "batch")
    log.close("2027-01-01")
    log.add("2026-12-02", "8", "slow")
    log.add("2026-11-02", "-1", "slow")
    log.add("2027-01-01", "16")
    return log


def summed(statement: Statement) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for line in statement.lines:
        found[line.usage_type] = found.get(line.usage_type, Decimal(0)) + line.quantity
    return found


def closed_total(log: Log, start: str) -> dict[str, Decimal]:
    """What the close bills, by the database itself."""
    rows = log.connection.execute(
        "SELECT t.key, t.value::numeric - coalesce((p.totals ->> t.key)::numeric, 0)"
        " FROM period_closes c CROSS JOIN jsonb_each_text(c.totals) t"
        " LEFT JOIN period_closes p ON p.tenant_id = c.tenant_id AND p.period_end = c.period_start"
        " WHERE c.tenant_id = 'a' AND c.period_start = %s AND c.state = 'closed'",
        (start,),
    ).fetchall()
    return {usage_type: quantity for usage_type, quantity in rows if quantity != 0}


def test_the_lines_are_the_totals_of_the_close_and_stay_so(two_months: Log) -> None:
    november, december = two_months.statement("2026-11"), two_months.statement("2026-12")
    assert summed(november) == closed_total(two_months, "2026-11-01") == {"DEEP": Decimal("1.749999"), "CALL": Decimal(7)}
    assert summed(december) == closed_total(two_months, "2026-12-01") == {"DEEP": Decimal("5.5")}
    assert [(line.day, line.source_service, line.kind, line.quantity, line.events) for line in november.lines] == [
        (date(2026, 11, 5), "worker", "usage", Decimal(7), 1),
        (date(2026, 11, 3), "batch", "usage", Decimal("0.25"), 1),
        (date(2026, 11, 3), "worker", "usage", Decimal("1.5"), 1),
        (date(2026, 11, 30), "worker", "correction", Decimal("-0.000001"), 1),
    ]
    two_months.client.command("OPTIMIZE TABLE usage_events FINAL")
    again = two_months.statement("2026-11")
    assert (again.lines, again.totals, again.at, again.state) == (november.lines, november.totals, november.at, "closed")


def test_what_came_late_is_shown_where_it_is_billed_and_where_it_is_missing(two_months: Log) -> None:
    november, december = two_months.statement("2026-11"), two_months.statement("2026-12")
    assert [(line.day.isoformat(), line.quantity) for line in december.lines if december.carried(line)] == [
        ("2026-11-30", Decimal(2))
    ]
    (total,) = december.totals
    assert (total.quantity, total.carried_in, total.corrected, total.events) == (Decimal("5.5"), Decimal(2), Decimal("-0.5"), 3)
    assert [(line.day.isoformat(), line.quantity) for line in november.later] == [
        ("2026-11-02", MINUS),
        ("2026-11-30", Decimal(2)),
    ]
    assert [(line.day.isoformat(), line.quantity) for line in december.later] == [
        ("2026-11-02", MINUS),
        ("2026-12-02", Decimal(8)),
    ]


def test_a_running_period_says_so_and_adds_up_with_what_is_carried_into_it(two_months: Log) -> None:
    january = two_months.statement("2027-01-15")
    assert (january.state, january.at, summed(january)) == ("running", NOW, {"DEEP": Decimal(23)})
    # Stored and not counted yet: not in the counters, so not in the lines.
    two_months.add("2027-01-02", "1000", count=False)
    assert summed(two_months.statement("2027-01")) == {"DEEP": Decimal(23)}


def test_over_all_statements_every_event_stands_once(two_months: Log) -> None:
    lines = [line for month in ("2026-11", "2026-12", "2027-01") for line in two_months.statement(month).lines]
    row = two_months.connection.execute("SELECT sum(quantity) FROM usage_totals WHERE tenant_id = 'a'").fetchone()
    assert row is not None
    assert sum(line.quantity for line in lines) == row[0]
    assert sum(line.events for line in lines) == 10


def test_what_an_invoice_cut_off_is_not_in_its_period_but_in_the_next(log: Log) -> None:
    log.add("2026-11-03", "1.5")
    log.add("2026-11-04", "2", "batch")
    # The last revision that came before the invoice was final.
    log.connection.execute(
        "INSERT INTO export_mappings (account, livemode, meter, period_start, usage_types, scale, rounding, mode)"
        " VALUES ('acct_1', false, 'deep', '2026-11-01', '{DEEP}', 1000, 'floor', 'last')"
    )
    log.connection.execute(
        "INSERT INTO export_ledger (account, livemode, tenant_id, customer_id, meter, period_start, period_end, revision,"
        " identifier, exact_total, value, remainder, event_time, positions, state)"
        " SELECT 'acct_1', false, 'a', 'cus_a', 'deep', '2026-11-01',"
        " '2026-12-01', 1, 'one', 3.5, 3500, 0, '2026-11-30Z', jsonb_object_agg(epoch || ':' || partition, next_offset),"
        " 'closed' FROM delta_fences"
    )
    log.connection.execute(
        "INSERT INTO export_finals (account, livemode, tenant_id, meter, period_start, period_end, invoice_id, finalized_at,"
        " billed, ledger_id, told, seen_at) SELECT account, livemode, tenant_id, meter, period_start, period_end, 'in_1', now(),"
        " 3500, id, 3500, now() FROM export_ledger"
    )
    log.add("2026-11-20", "4", "slow")
    log.add("2026-11-20", "7", usage_type="CALL")
    log.close("2026-12-01")
    log.add("2026-12-02", "16")
    log.add("2026-11-21", "32", "slow")
    november, december = log.statement("2026-11"), log.statement("2026-12")
    assert summed(november) == closed_total(log, "2026-11-01") == {"DEEP": Decimal("3.5"), "CALL": Decimal(7)}
    assert [line.quantity for line in november.later] == [Decimal(4), Decimal(32)]
    assert summed(december) == {"DEEP": Decimal(52)}
    log.close("2027-01-01")
    december = log.statement("2026-12")
    assert summed(december) == closed_total(log, "2026-12-01") == {"DEEP": Decimal(52)}
    assert [line.quantity for line in december.lines if december.carried(line)] == [Decimal(4), Decimal(32)]
    assert [(told.meter, told.value, told.state) for told in november.told] == [("deep", 3500, "closed")]
    assert december.later == ()


def test_a_statement_that_does_not_add_up_is_not_written(two_months: Log) -> None:
    two_months.client.command("ALTER TABLE usage_events DELETE WHERE source_service = 'batch' SETTINGS mutations_sync = 2")
    with pytest.raises(DoesNotAddUp, match=r"DEEP: clickhouse 1\.499999, counters 1\.749999; run `meterline reconcile`"):
        two_months.statement("2026-11")


def test_a_month_without_usage_is_an_empty_statement(log: Log) -> None:
    assert (log.statement("2026-11").totals, log.statement("2026-11").lines) == ((), ())
    log.add("2026-12-03", "1")
    log.close("2027-01-01")
    log.add("2026-11-03", "5")
    # It came after the first close, which is of a later month: it is billed there, not here.
    assert log.statement("2026-11").lines == ()
    assert summed(log.statement("2027-01")) == {"DEEP": Decimal(5)}


def test_csv_json_and_page_hold_the_same_lines(two_months: Log) -> None:
    statement = two_months.statement("2026-12")
    rows = list(csv.DictReader(io.StringIO(as_csv(statement, BASE), newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["day"], row["quantity"], row["carried_forward"]) for row in rows] == [
        ("2026-11-30", "2", "yes"),
        ("2026-12-01", "4", "no"),
        ("2026-12-31", "-0.5", "no"),
    ]
    assert rows[0]["events_link"] == (
        "https://usage.example.com/v1/billing/usage/a?view=events&from=2026-11-30&to=2026-12-01&usageType=DEEP"
    )
    document = json.loads(json.dumps(as_document(statement, BASE)))
    assert [line["quantity"] for line in document["lines"]] == [row["quantity"] for row in rows]
    assert document["totals"][0] | {"quantity": "5.5", "carried_forward": "2", "corrected": "-0.5"} == document["totals"][0]
    page = as_page(statement, BASE)
    assert "A &amp; Söhne" in page
    assert "Deep &lt;looks&gt;" in page
    assert "<looks>" not in page
    assert page.count("carried forward</td>") == 1
    assert "Arrived after the close" in page


def test_a_name_cannot_become_a_formula_of_a_spreadsheet(log: Log) -> None:
    log.add("2026-11-03", "1", "=cmd|calc")
    (row,) = csv.DictReader(io.StringIO(as_csv(log.statement("2026-11"), ""), newline=""))
    assert row["source_service"] == "'=cmd|calc"


def meterline(settings: Settings, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "export", "statement", *words],
        env={
            "PATH": "/usr/bin:/bin",
            "METERLINE_POSTGRES_URL": settings.postgres_url.get_secret_value(),
            "METERLINE_CLICKHOUSE_URL": settings.clickhouse_url,
            "METERLINE_CLICKHOUSE_USER": settings.clickhouse_user,
            "METERLINE_CLICKHOUSE_PASSWORD": settings.clickhouse_password.get_secret_value(),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_writes_a_file_and_names_what_it_wants(two_months: Log, migrated: Settings, tmp_path: Any) -> None:
    target = tmp_path / "a.html"
    status, out, error = meterline(migrated, "a", "--period", "2026-12", "--output", str(target))
    assert (status, out) == (0, ""), error
    assert target.read_text("utf-8").startswith("<!doctype html>")
    status, out, _ = meterline(migrated, "a", "--period", "2026-12", "--format", "json")
    assert (status, json.loads(out)["state"]) == (0, "closed")
    status, _, error = meterline(migrated, "nobody", "--period", "2026-12")
    assert (status, "there is no tenant nobody" in error) == (1, True)
    status, _, error = meterline(migrated, "a", "--period", "December")
    assert (status, "write it as 2026-10" in error) == (2, True)
