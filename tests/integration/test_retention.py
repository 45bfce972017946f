"""Retention drops what has done its work and is past its time, and nothing that waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from aggregator import retention as loop
from runtime import postgres
from runtime.settings import Settings
from store import retention
from store.migrate import migrate_postgres
from store.retention import sweep

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(scope="module")
def schema(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings.model_copy(
        update={"outbox_keep_days": 14, "inbox_keep_days": 90, "audit_keep_days": 400, "holds_keep_days": 30}
    )


@pytest.fixture
def connection(schema: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(schema, autocommit=True) as connection:
        connection.execute("TRUNCATE outbox, inbox, audit, holds, usage_alerts")
        yield connection


def left(connection: psycopg.Connection[Any], table: str, column: str) -> list[str]:
    return [str(value) for (value,) in connection.execute(f"SELECT {column} FROM {table} ORDER BY 1".encode())]


def test_only_what_is_done_and_past_its_time_is_dropped(connection: psycopg.Connection[Any], schema: Settings) -> None:
    connection.execute(
        "INSERT INTO outbox (topic, record_key, value, created_at, partition, kafka_offset, sent_at) VALUES"
        " ('old', '', '', '2020-01-01Z', 0, 1, '2026-11-06 23:59:59Z'), ('new', '', '', '2020-01-01Z', 0, 2, '2026-11-07Z'),"
        " ('unsent', '', '', '2020-01-01Z', NULL, NULL, NULL)"
    )
    connection.execute(
        "INSERT INTO inbox (source, message_id, body, received_at, done_at) VALUES"
        " ('s', 'old', '', '2020-01-01Z', '2026-08-22 23:59:59Z'), ('s', 'new', '', '2020-01-01Z', '2026-08-23Z'),"
        " ('s', 'waits', '', '2020-01-01Z', NULL)"
    )
    connection.execute(
        "INSERT INTO audit (who, what, subject, at) VALUES ('w', 'x', 'old', '2025-01-01Z'), ('w', 'x', 'new', '2026-11-20Z')"
    )
    connection.execute(
        "INSERT INTO idempotency_keys (who, key, fingerprint, started_at)"
        " SELECT 'w', name, decode(repeat('00', 32), 'hex'), at FROM"
        " (VALUES ('old', timestamptz '2026-11-19Z'), ('new', '2026-11-21Z')) AS of (name, at)"
    )
    swept = sweep(connection, schema, NOW)
    assert swept.rows == {"outbox": 1, "inbox": 1, "holds": 0, "usage_alerts": 0, "idempotency_keys": 1, "audit": 1}
    assert not swept.more
    assert left(connection, "outbox", "topic") == ["new", "unsent"]
    assert left(connection, "inbox", "message_id") == ["new", "waits"]
    assert left(connection, "audit", "subject") == ["new"]


def test_the_record_of_a_hold_that_is_not_done_is_kept_and_a_done_hold_goes_after_its_time(
    connection: psycopg.Connection[Any], schema: Settings
) -> None:
    connection.execute("INSERT INTO epochs VALUES (1, 'e', 'c', 't', 1, '{0}') ON CONFLICT DO NOTHING")
    connection.execute(
        "INSERT INTO outbox (topic, record_key, value, created_at, partition, kafka_offset, sent_at)"
        " SELECT name, '', '', '2020-01-01Z', 0, 1, '2020-01-02Z' FROM unnest('{done,waits}'::text[]) AS name"
    )
    connection.execute(
        "INSERT INTO holds (hold_id, tenant_id, usage_type, source_service, source_entity_id, quantity, reason, state,"
        "  created_at, expires_at, settled_at, settled_quantity, occurred_at, settled_late, settle_digest, outbox_id,"
        "  epoch, partition, kafka_offset, verdict, done_at)"
        " SELECT gen_random_uuid(), 't', 'u', 's', topic, 1, 'r', 'settled', '2020-01-01Z', '2020-01-02Z', '2020-01-01Z', 1,"
        "  '2020-01-01Z', false, '', id, 1, 0, 1, CASE topic WHEN 'done' THEN 'admitted' END,"
        "  CASE topic WHEN 'done' THEN timestamptz '2026-10-22 00:00:00Z' END FROM outbox"
    )
    assert sweep(connection, schema, NOW).rows == {
        "outbox": 1,
        "inbox": 0,
        "holds": 0,
        "usage_alerts": 0,
        "idempotency_keys": 0,
        "audit": 0,
    }
    assert left(connection, "outbox", "topic") == ["waits"]
    assert sweep(connection, schema, datetime(2026, 11, 21, 0, 0, 1, tzinfo=UTC)).rows["holds"] == 1
    assert left(connection, "holds", "source_entity_id") == ["waits"]


def test_zero_days_of_audit_is_for_ever(connection: psycopg.Connection[Any], schema: Settings) -> None:
    connection.execute("INSERT INTO audit (who, what, subject, at) VALUES ('w', 'x', 'y', '1999-01-01Z')")
    assert sweep(connection, schema.model_copy(update={"audit_keep_days": 0}), NOW).rows["audit"] == 0
    assert left(connection, "audit", "subject") == ["y"]


def test_a_sweep_is_bounded_and_the_next_one_goes_on(
    connection: psycopg.Connection[Any], schema: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 3)
    monkeypatch.setattr(retention, "BATCHES_MAX", 2)
    connection.execute(
        "INSERT INTO audit (who, what, subject, at) SELECT 'w', 'x', n::text, '2020-01-01Z' FROM generate_series(1, 8) AS n"
    )
    first = sweep(connection, schema, NOW)
    assert (first.rows["audit"], first.more) == (6, True)
    second = sweep(connection, schema, NOW)
    assert (second.rows["audit"], second.more) == (2, False)


def test_two_sweeps_at_once_do_not_wait_for_each_other(connection: psycopg.Connection[Any], schema: Settings) -> None:
    connection.execute(
        "INSERT INTO audit (who, what, subject, at) VALUES ('w', 'x', 'a', '2020-01-01Z'), ('w', 'x', 'b', '2020-01-02Z')"
    )
    with postgres.connect(schema) as other:
        other.execute("SELECT FROM audit WHERE subject = 'a' FOR UPDATE")
        assert sweep(connection, schema, NOW).rows["audit"] == 1
        other.rollback()
    assert left(connection, "audit", "subject") == ["a"]


def test_an_alert_goes_when_its_period_is_long_over_unless_its_webhook_waits(
    connection: psycopg.Connection[Any], schema: Settings
) -> None:
    connection.execute(
        "INSERT INTO usage_alerts (alert_id, tenant_id, usage_type, limit_period, period_start, period_end, threshold, used,"
        "  limit_quantity, hard_stop, raised_at, state, next_try_at)"
        " SELECT gen_random_uuid(), name, 'u', 'month', '2025-01-01', ended::date, 80, 8, 10, true, '2025-01-05Z', state,"
        "  CASE state WHEN 'waiting' THEN timestamptz '2025-02-01Z' END"
        " FROM (VALUES ('old', '2026-11-10', 'dead'), ('new', '2026-11-11', 'dead'), ('waits', '2025-02-01', 'waiting'))"
        "  AS t (name, ended, state)"
    )
    at_ten_days = schema.model_copy(update={"alerts_keep_days": 10})
    assert sweep(connection, at_ten_days, NOW).rows["usage_alerts"] == 1
    assert left(connection, "usage_alerts", "tenant_id") == ["new", "waits"]


def test_what_is_dropped_is_counted_by_table(
    connection: psycopg.Connection[Any], schema: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SWEEP_ON_S", 0.0)
    connection.execute("INSERT INTO audit (who, what, subject, at) VALUES ('w', 'x', 'y', '1999-01-01Z')")
    stop = threading.Event()

    def connect() -> psycopg.Connection[Any]:
        stop.set()
        return postgres.connect(schema, autocommit=True)

    def counted() -> float:
        return REGISTRY.get_sample_value("meterline_rows_dropped_total", {"table": "audit"}) or 0.0

    before = counted()
    loop.sweep_until(stop, connect, schema)
    assert counted() == before + 1
