"""`meterline migrate` on real servers: from nothing, from each version with rows in it, twice, and at the same time."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

import store.migrate
import store.postgres
from cli import checks
from cli.commands import migrate as migrate_command
from deploy.embedded.processes import free_port
from meterline_schemas.types import Micros
from runtime import clickhouse, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings, variables
from store import credits
from store.credit_checks import check_credits
from store.credits import By, Owner
from store.migrate import (
    SqlFile,
    clickhouse_files,
    clickhouse_version,
    migrate_clickhouse,
    migrate_postgres,
    postgres_revision,
)
from store.steps import run

POSTGRES_REVISIONS = sorted(path.stem[:4] for path in Path(store.postgres.__file__).parent.glob("versions/*.sql"))


def pointed_at(settings: Settings, database: str) -> Settings:
    """The same servers, another database in both."""
    return settings.model_copy(
        update={
            "postgres_url": SecretStr(urlsplit(settings.postgres_url.get_secret_value())._replace(path=f"/{database}").geturl()),
            "clickhouse_url": urlsplit(settings.clickhouse_url)._replace(path=f"/{database}").geturl(),
        }
    )


@pytest.fixture
def absent(settings: Settings) -> Iterator[Settings]:
    """Settings that name a database which neither store has."""
    name = f"migrate_{secrets.token_hex(6)}"
    yield pointed_at(settings, name)
    with postgres.connect(settings, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
    client = clickhouse.client(settings)
    client.command(f"DROP DATABASE IF EXISTS {name}")
    client.close()


def insert_event(settings: Settings, offset: int = 0) -> None:
    client = clickhouse.client(settings)
    client.command(
        "INSERT INTO usage_events (tenant_id, usage_type, source_service, source_entity_id, quantity, kind, occurred_at,"
        " ingested_at, log_epoch, kafka_partition, kafka_offset, row_version) VALUES"
        " ('t', 'U', 's', {entity:String}, 1.5, 'usage', '2026-11-21 10:00:00', '2026-11-21 10:00:00', 1, 0, {offset:UInt64},"
        "  bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), {offset:UInt64})))",
        parameters={"entity": f"e{offset}", "offset": offset},
    )
    client.close()


def count(settings: Settings, table: str) -> int:
    client = clickhouse.client(settings)
    try:
        return int(client.query(f"SELECT count() FROM {table}").result_rows[0][0])
    finally:
        client.close()


# -- Postgres ------------------------------------------------------------------------------------------------------


def test_postgres_from_nothing_creates_the_database_and_every_revision(absent: Settings) -> None:
    steps: list[str] = []
    done = migrate_postgres(absent, progress=steps.append)
    assert [name[:4] for name in done] == POSTGRES_REVISIONS
    assert steps[0].startswith("Postgres: create database")
    current, newest = postgres_revision(absent)
    assert current == newest


def test_postgres_twice_does_nothing_the_second_time(absent: Settings) -> None:
    migrate_postgres(absent)
    assert migrate_postgres(absent) == []


def test_balances_of_credits_become_the_first_entries_of_their_ledger(absent: Settings) -> None:
    migrate_postgres(absent, to="0013")
    with postgres.connect(absent) as connection:
        connection.execute("INSERT INTO credit_balances VALUES ('u1', 't', 2.5), ('u2', 't', 0)")
    migrate_postgres(absent)
    with postgres.connect(absent) as connection:
        balances = connection.execute("SELECT user_id, tenant_id, balance FROM credit_balances ORDER BY 1").fetchall()
        check = check_credits(connection)
        charged = run(connection, credits.charge(Owner("t", "u1"), Micros(500_000), by=By("tester"), key="k"))
    assert balances == [("u1", "t", Decimal("2.5")), ("u2", "t", 0)]
    assert (check.ok, check.checked, charged.balance) == (True, 1, 2_000_000)


@pytest.mark.parametrize("previous", POSTGRES_REVISIONS)
def test_postgres_from_each_version_keeps_the_rows_that_were_there(absent: Settings, previous: str) -> None:
    migrate_postgres(absent, to=previous)
    assert postgres_revision(absent)[0] == previous
    with postgres.connect(absent) as connection:
        connection.execute(
            "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (1, 'e', 'c', 'i', 2, '{0,5}')"
        )
        connection.execute(
            "INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (1, 0, 0, 1), (1, 1, 5, 1)"
        )
        connection.execute("INSERT INTO rules_from VALUES (1, 0, 0, 1)")
        connection.execute("INSERT INTO usage_counters VALUES ('t', 'U', '2026-11-21', 1.5, 1)")
        if previous >= "0002":
            connection.execute("INSERT INTO tenants (tenant_id) VALUES ('t')")
            connection.execute("INSERT INTO audit (who, what, subject) VALUES ('w', 'x', 'y')")
        if previous >= "0003":
            connection.execute(
                "INSERT INTO export_ledger (account, livemode, tenant_id, customer_id, meter, period_start, period_end, revision,"
                " identifier, exact_total, value, remainder, event_time, positions, state) VALUES"
                " ('a', false, 't', 'cus', 'm', '2026-11-01', '2026-12-01', 1, 'i', 1.5, 1, 0.5, now(), '{}', 'planned')"
            )
    migrate_postgres(absent)
    current, newest = postgres_revision(absent)
    assert current == newest
    with postgres.connect(absent) as connection:
        assert connection.execute("SELECT next_offset FROM delta_fences ORDER BY partition").fetchall() == [(0,), (5,)]
        assert connection.execute("SELECT quantity::text FROM usage_counters").fetchall() == [("1.5",)]
        if previous >= "0002":
            assert connection.execute("SELECT status FROM tenants").fetchall() == [("active",)]
        if previous >= "0003":
            assert connection.execute("SELECT count(*) FROM export_ledger").fetchone() == (1,)


def test_several_migrations_of_postgres_at_once_run_each_revision_once(absent: Settings) -> None:
    with ThreadPoolExecutor(4) as threads:
        done = [name for names in threads.map(lambda _: migrate_postgres(absent), range(4)) for name in names]
    assert sorted(done) == sorted(set(done))
    current, newest = postgres_revision(absent)
    assert current == newest


def test_there_is_no_way_down(absent: Settings) -> None:
    migrate_postgres(absent)
    with pytest.raises(MeterlineExit, match="no way down: restore a backup"):
        migrate_postgres(absent, to="0001")
    migrate_clickhouse(absent)
    with pytest.raises(MeterlineExit, match="no way down"):
        migrate_clickhouse(absent, to=1)


def test_a_database_of_a_later_build_is_refused(absent: Settings) -> None:
    migrate_postgres(absent)
    with postgres.connect(absent) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(MeterlineExit, match="run the build that made it"):
        migrate_postgres(absent)


def test_who_may_not_create_a_database_is_told_what_an_administrator_runs(absent: Settings) -> None:
    role = f"poor_{secrets.token_hex(4)}"
    url = urlsplit(absent.postgres_url.get_secret_value())
    poor = absent.model_copy(
        update={"postgres_url": SecretStr(url._replace(netloc=f"{role}:pass@{url.hostname}:{url.port}").geturl())}
    )
    with postgres.connect(absent, autocommit=True, dbname="postgres") as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'pass'".encode())
        try:
            with pytest.raises(MeterlineExit, match=r'CREATE DATABASE "migrate_\w+" OWNER') as refusal:
                migrate_postgres(poor)
        finally:
            connection.execute(f"DROP ROLE {role}".encode())
    assert refusal.value.code is Exit.SETTINGS


# -- ClickHouse ----------------------------------------------------------------------------------------------------


def test_clickhouse_from_nothing_creates_the_database_and_every_version(absent: Settings) -> None:
    steps: list[str] = []
    done = migrate_clickhouse(absent, progress=steps.append)
    assert done[:-1] == [file.name for file in clickhouse_files()]
    assert done[-1] == f"rejects are kept for {absent.rejects_keep_days} days"
    assert steps[0].startswith("ClickHouse: create database")
    assert clickhouse_version(absent) == (len(clickhouse_files()), len(clickhouse_files()))


def test_clickhouse_twice_does_nothing_the_second_time(absent: Settings) -> None:
    migrate_clickhouse(absent)
    assert migrate_clickhouse(absent) == []


def test_a_clickhouse_that_is_too_old_is_refused_by_name_before_anything_is_made(
    absent: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.migrate, "CLICKHOUSE_OLDEST", (99, 0))
    told = r"ClickHouse [\d.]+ is too old: upgrade it to 99\.0 or newer"
    with pytest.raises(MeterlineExit, match=told):
        migrate_clickhouse(absent)
    status, found, remedy = checks.clickhouse_connection(absent)
    assert (status, remedy[:27]) == ("failed", "upgrade it to 99.0 or newer")
    assert "is too old" in found
    monkeypatch.undo()
    client = clickhouse.client(absent, in_database=False)
    name = clickhouse.database(absent)
    assert client.query("SELECT 1 FROM system.databases WHERE name = {n:String}", {"n": name}).row_count == 0
    client.close()


@pytest.mark.parametrize("previous", [file.version for file in clickhouse_files()])
def test_clickhouse_from_each_version_keeps_the_rows_that_were_there(absent: Settings, previous: int) -> None:
    migrate_clickhouse(absent, to=previous)
    insert_event(absent)
    migrate_clickhouse(absent)
    assert clickhouse_version(absent)[0] == len(clickhouse_files())
    client = clickhouse.client(absent)
    assert client.query("SELECT toString(quantity), events FROM usage_daily").result_rows == [("1.5", 1)]
    client.close()


def test_several_migrations_of_clickhouse_at_once_do_no_harm(absent: Settings) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: migrate_clickhouse(absent), range(3)))
    assert migrate_clickhouse(absent) == []
    assert clickhouse_version(absent)[0] == len(clickhouse_files())
    insert_event(absent)
    assert count(absent, "usage_events") == 1


def test_a_file_that_was_changed_after_it_was_applied_is_refused_with_the_remedy(absent: Settings) -> None:
    migrate_clickhouse(absent)
    files = clickhouse_files()
    files[0] = SqlFile(1, files[0].name, "0" * 64, files[0].sql + "\n-- a word more")
    with pytest.raises(MeterlineExit, match="write the change as a new numbered file") as refusal:
        migrate_clickhouse(absent, files=files)
    assert refusal.value.code is Exit.FAILED


def test_a_database_ahead_of_this_build_is_refused(absent: Settings) -> None:
    migrate_clickhouse(absent)
    with pytest.raises(MeterlineExit, match="run the build that made it"):
        migrate_clickhouse(absent, files=clickhouse_files()[:-1])


def test_a_run_that_was_cut_is_finished_by_the_next(absent: Settings) -> None:
    first = "CREATE TABLE IF NOT EXISTS a (x UInt8) ENGINE = MergeTree ORDER BY x"
    cut = SqlFile(1, "0001_two", "a" * 64, f"{first};\nCREATE TABLE IF NOT EXISTS b (x Nonsense) ENGINE = MergeTree ORDER BY x")
    with pytest.raises(MeterlineExit, match=r"ClickHouse refused 0001_two\.sql, statement 2"):
        migrate_clickhouse(absent, files=[cut])
    assert clickhouse_version(absent)[0] == 0
    whole = SqlFile(1, "0001_two", "b" * 64, cut.sql.replace("Nonsense", "UInt8"))
    assert migrate_clickhouse(absent, files=[whole]) == ["0001_two"]
    assert count(absent, "b") == 0


def test_rejects_are_kept_for_as_long_as_the_setting_says(absent: Settings) -> None:
    migrate_clickhouse(absent)
    week = absent.model_copy(update={"rejects_keep_days": 7})
    for_ever = absent.model_copy(update={"rejects_keep_days": 0})
    assert migrate_clickhouse(week) == ["rejects are kept for 7 days"]
    assert migrate_clickhouse(week) == []
    assert migrate_clickhouse(for_ever) == ["rejects are kept for ever"]
    assert migrate_clickhouse(for_ever) == []
    client = clickhouse.client(absent)
    assert "TTL" not in str(client.query("SHOW CREATE TABLE usage_rejects").result_rows[0][0])
    client.close()


# -- both ----------------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_ends_with_where_and_the_remedy_and_no_password(settings: Settings) -> None:
    port = free_port()
    away = settings.model_copy(
        update={
            "postgres_url": SecretStr(f"postgresql://user:p4ssw0rd@127.0.0.1:{port}/m"),
            "clickhouse_url": f"http://user:p4ssw0rd@127.0.0.1:{port}/m",
        }
    )
    for migrate, setting in ((migrate_postgres, "METERLINE_POSTGRES_URL"), (migrate_clickhouse, "METERLINE_CLICKHOUSE_URL")):
        with pytest.raises(MeterlineExit) as refusal:
            migrate(away)
        assert refusal.value.code is Exit.UNREACHABLE
        assert f"127.0.0.1:{port}" in str(refusal.value)
        assert f"set {setting}" in str(refusal.value)
        assert "p4ssw0rd" not in str(refusal.value)


def test_a_wrong_password_of_postgres_is_told_as_such(settings: Settings) -> None:
    url = urlsplit(settings.postgres_url.get_secret_value())
    wrong = url._replace(netloc=f"{url.username}:wrong@{url.hostname}:{url.port}").geturl()
    with pytest.raises(MeterlineExit, match="password authentication failed"):
        migrate_postgres(settings.model_copy(update={"postgres_url": SecretStr(wrong)}))


def test_the_command_says_what_it_did(absent: Settings) -> None:
    names = variables()
    environment = {
        names["postgres_url"][0]: absent.postgres_url.get_secret_value(),
        names["clickhouse_url"][0]: absent.clickhouse_url,
        names["clickhouse_user"][0]: absent.clickhouse_user,
        names["clickhouse_password"][0]: absent.clickhouse_password.get_secret_value(),
    }
    first = CliRunner().invoke(migrate_command.command, ["--json"], env=environment, catch_exceptions=False)
    assert first.exit_code == 0
    assert json.loads(first.stdout)["clickhouse"][0] == "0001_usage_events"
    assert "Postgres: 0001_log_and_counters" in first.stderr
    second = CliRunner().invoke(migrate_command.command, [], env=environment, catch_exceptions=False)
    assert second.stdout == "nothing to do: both stores are at this build's schema\n"


def test_the_schema_is_whole_or_absent_when_a_postgres_migration_fails(absent: Settings) -> None:
    migrate_postgres(absent, to="0001")
    with postgres.connect(absent) as connection:
        connection.execute("CREATE TABLE export_ledger (mine integer)")  # in the way of 0003, after 0002 went well
    with pytest.raises(MeterlineExit, match='"export_ledger" already exists; nothing was changed'):
        migrate_postgres(absent)
    assert postgres_revision(absent)[0] == "0001"
    with postgres.connect(absent) as connection:
        assert connection.execute("SELECT to_regclass('tenants')").fetchone() == (None,)
