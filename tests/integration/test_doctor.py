"""`meterline doctor` on real servers: well, empty, and away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.checks import CHECKS
from cli.commands.doctor import command
from deploy.embedded.processes import free_port
from runtime.settings import Settings, variables
from store.migrate import migrate_clickhouse, migrate_postgres
from store.topics import apply

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Report:
    """What a run said."""

    status: int
    ok: bool
    checks: dict[str, dict[str, str]]

    def having(self, status: str) -> set[str]:
        """The checks with that status."""
        return {name for name, check in self.checks.items() if check["status"] == status}


def _environment(settings: Settings, over: dict[str, str]) -> dict[str, str]:
    """The settings as the environment of a process."""
    made: dict[str, str] = {}
    for field, names in variables().items():
        value = getattr(settings, field)
        if value is not None:
            made[names[0]] = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
    return made | over


def _run(settings: Settings, *arguments: str, **over: str) -> Result:
    """In this process, which has the client libraries loaded; one test starts a process of its own."""
    known = {name: None for names in variables().values() for name in names}
    environment = {**known, **_environment(settings, over)}
    return CliRunner().invoke(command, arguments, env=environment, standalone_mode=False, catch_exceptions=False)


def _doctor(settings: Settings, **over: str) -> Report:
    ran = _run(settings, "--json", **over)
    (line,) = ran.stdout.splitlines()
    said = json.loads(line)
    checks = {check.pop("check"): check for check in said["checks"]}
    assert list(checks) == [check.name for check in CHECKS]
    assert all(check["remedy"] for check in checks.values() if check["status"] in ("failed", "warning"))
    return Report(ran.return_value, said["ok"], checks)


@pytest.fixture(scope="module")
def empty(settings: Settings) -> Report:
    """Of servers that hold nothing yet; taken before anything else in this module makes the schema."""
    return _doctor(settings)


@pytest.fixture(scope="module")
def prepared(settings: Settings, empty: Report) -> Settings:
    """The same servers with schema, topics and epoch."""
    migrate_postgres(settings)
    migrate_clickhouse(settings)
    apply(settings)
    return settings


def test_empty_servers_answer_and_lack_the_schema(empty: Report) -> None:
    assert empty.status == 1
    assert empty.ok is False
    assert {"Kafka", "ClickHouse", "Postgres", "Stripe key", "spool"} <= empty.having("ok")
    assert empty.having("failed") == {"ClickHouse schema", "Postgres schema"}
    assert empty.checks["Postgres schema"]["remedy"] == "run `meterline migrate`"
    assert empty.checks["ClickHouse schema"]["remedy"] == "run `meterline migrate`"
    assert empty.having("not checked") == {"topics", "epoch", "catalog", "service secrets", "forget key"}


def test_a_prepared_installation_is_well_and_hears_what_is_still_to_do(prepared: Settings) -> None:
    report = _doctor(prepared)
    assert report.having("failed") == report.having("not checked") == set()
    assert (report.status, report.ok) == (0, True)
    assert report.having("warning") == {"catalog", "service secrets"}
    assert "epoch 1: " in report.checks["epoch"]["found"]


def test_people_get_a_table_that_names_every_check_and_remedy(prepared: Settings) -> None:
    known = {name for names in variables().values() for name in names}
    kept = {name: value for name, value in os.environ.items() if name not in known}
    ran = subprocess.run(
        [sys.executable, "-m", "cli", "doctor"],
        cwd=ROOT,
        env=kept | _environment(prepared, {"REDIS_URL": "redis://cache:6379"}),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert all(check.name in ran.stdout for check in CHECKS)
    assert "REDIS_URL set, and not used by anything here" in ran.stdout
    assert "remedy: remove what nothing else needs" in ran.stdout
    assert "3 warning" in ran.stdout.splitlines()[-1]


def test_no_secret_is_shown(prepared: Settings) -> None:
    hidden = [prepared.clickhouse_password.get_secret_value()]
    assert prepared.stripe_secret_key is not None
    hidden.append(prepared.stripe_secret_key.get_secret_value())
    for ran in (_run(prepared), _run(prepared, "--json", METERLINE_CLICKHOUSE_URL="http://127.0.0.1:1/m")):
        assert not [secret for secret in hidden if secret in ran.stdout + ran.stderr]


@pytest.mark.parametrize(
    ("variable", "url", "check"),
    [
        ("METERLINE_KAFKA_URL", "127.0.0.1:{port}", "Kafka"),
        ("METERLINE_CLICKHOUSE_URL", "http://127.0.0.1:{port}/meterline", "ClickHouse"),
        ("METERLINE_POSTGRES_URL", "postgresql://ada:lovelace@127.0.0.1:{port}/meterline", "Postgres"),
        ("METERLINE_STRIPE_API_BASE", "http://127.0.0.1:{port}", "Stripe key"),
    ],
)
def test_a_server_that_is_away_is_one_failure_and_the_rest_is_still_looked_at(
    prepared: Settings, variable: str, url: str, check: str
) -> None:
    began = time.monotonic()
    report = _doctor(prepared, **{variable: url.format(port=free_port())})
    assert time.monotonic() - began < 60
    assert report.status == 1
    assert report.having("failed") == {check}
    assert variable in report.checks[check]["remedy"]
    assert {"Kafka", "ClickHouse", "Postgres", "Stripe key"} - {check} <= report.having("ok")
    assert "lovelace" not in json.dumps(report.checks)


def test_a_topic_that_differs_is_named_with_the_command_that_settles_it(prepared: Settings) -> None:
    report = _doctor(prepared, METERLINE_EVENTS_KEEP_DAYS="60")
    assert report.status == 0
    assert "retention.ms" in report.checks["topics"]["found"]
    assert "meterline topics apply" in report.checks["topics"]["remedy"]


def test_a_wrong_password_is_a_failure_of_that_server(prepared: Settings) -> None:
    report = _doctor(prepared, METERLINE_CLICKHOUSE_PASSWORD="wrong")
    assert report.having("failed") == {"ClickHouse"}
    assert "_PASSWORD" in report.checks["ClickHouse"]["remedy"]


def test_a_key_that_the_local_stripe_does_not_know_fails(prepared: Settings) -> None:
    report = _doctor(prepared, METERLINE_STRIPE_SECRET_KEY="sk_test_somebody_elses")
    assert report.having("failed") == {"Stripe key"}
    assert "answers 401" in report.checks["Stripe key"]["found"]
