"""What the aggregator shows of the tables: drift, and tenants with too many usage types."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from aggregator.census import look
from runtime import postgres
from runtime.settings import Settings
from store import reconcile_runs

MANY = 1_000


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_more_usage_types_than_is_sound_show_in_a_metric_and_the_tenant_in_the_log(
    migrated: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres.connect(migrated) as connection:
        connection.execute(
            "INSERT INTO usage_totals SELECT 'tnt_' || t, 'TYPE_' || n, 1, now() FROM generate_series(1, 3) t,"
            " generate_series(1, %s + t - 2) n",
            (MANY,),
        )
        with caplog.at_level(logging.WARNING):
            look(connection, MANY)
        assert gauge("meterline_tenants_with_many_usage_types") == 1
        assert "tnt_3: 1001" in str(caplog.records[-1].__dict__["most"])
        caplog.clear()
        look(connection, MANY + 1)
        assert gauge("meterline_tenants_with_many_usage_types") == 0
        assert caplog.records == []


def test_the_drift_of_the_last_reconcile_is_a_metric(migrated: Settings) -> None:
    with postgres.connect(migrated) as connection:
        assert reconcile_runs.latest(connection) is None
        reconcile_runs.record(connection, "tester", False, {"I1": 0, "I4": 3})
        look(connection, MANY)
        assert gauge("meterline_drift_findings", invariant="I4") == 3
        reconcile_runs.record(connection, "tester", True, {"I1": 0, "I4": 0})
        look(connection, MANY)
        assert gauge("meterline_drift_findings", invariant="I4") == 0
        run = reconcile_runs.latest(connection)
        assert run is not None
        assert gauge("meterline_reconciled_timestamp_seconds") == pytest.approx(run.at.timestamp())


def test_old_runs_of_reconcile_are_dropped(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_runs, "RUNS_KEPT", 5)
    with postgres.connect(migrated) as connection:
        for _ in range(12):
            reconcile_runs.record(connection, "tester", True, {})
        assert connection.execute("SELECT count(*) FROM reconcile_runs").fetchone() == (5,)
