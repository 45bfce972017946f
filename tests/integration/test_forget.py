"""Forgetting a tenant and a user: no name is left in any store, and no number changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner

from cli.commands.explain import command as explain
from cli.commands.forget import command
from metering.pseudonyms import Pseudonyms
from meterline_schemas.delta import Figures
from meterline_schemas.types import Micros
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import credits
from store.credit_checks import check_credits
from store.credits import By, Owner
from store.reconcile import reconcile
from store.steps import run
from tests.fakes.pipeline import Pipeline, environment_of
from tests.integration.counted_log import CountedLog
from tests.integration.test_consume_crashes import event

KEY = "0123456789abcdef" * 4
TENANT, USER = "tenant-to-forget-7f3a", "user-to-forget-19c2"
PSEUDONYMS = Pseudonyms(KEY.encode())


@pytest.fixture(scope="module")
def log(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedLog]:
    settings = migrated.model_copy(update={"forget_key": type(migrated.postgres_url)(KEY)})
    with Pipeline(settings, tmp_path_factory.mktemp("forget")) as pipeline:
        log = CountedLog(settings, pipeline)
        for number in range(20):
            entity = f"{TENANT}-job-{number}"
            pipeline.send_event(entity, event(entity, "1.5", TENANT, metadata={"note": f"of {TENANT}"}))
            pipeline.send_event(
                f"other-{number}", event(f"other-{number}", "2", metadata={"userId": USER if number < 5 else "u2"})
            )
        pipeline.send_event(f"{TENANT}-job-1", event(f"{TENANT}-job-1", "7", TENANT))
        pipeline.send_event(f"{TENANT}-job-2", event(f"{TENANT}-job-2", "1.50", TENANT))
        pipeline.send_event("shared-1", event("shared-1", "1", TENANT))
        pipeline.send_event("torn", f'{{"tenantId": "{TENANT}", '.encode())
        pipeline.send_event("other-1", event("other-1", "3", metadata={"userId": USER}))
        corrects = {"sourceService": "worker", "sourceEntityId": f"{TENANT}-job-3", "usageType": "PHOTO"}
        pipeline.send_event("fix-1", event("fix-1", "-0.5", TENANT, kind="correction", corrects=corrects))
        log.advance()
        with postgres.connect(settings) as connection:
            connection.execute(
                "INSERT INTO tenants (tenant_id, name, stripe_customer_id) VALUES (%s, 'Forget Me Ltd', 'cus_1')",
                (TENANT,),
            )
            connection.execute(
                "INSERT INTO users (user_id, tenant_id, username, email, role)"
                " VALUES (%s, %s, 'forgetful', 'f@example.org', 'user')",
                (USER, TENANT),
            )
            connection.execute("INSERT INTO accounts VALUES ('app', %s)", (TENANT,))
            run(
                connection, credits.grant(Owner(TENANT, USER), Micros(5), by=By("a"), key=f"k {USER}", note=f"{USER} of {TENANT}")
            )
            for owner in (Owner(TENANT, "u9"), Owner("t", "other")):
                run(connection, credits.grant(owner, Micros(5), by=By(USER), key="k"))
            connection.execute(
                "INSERT INTO audit (who, what, subject, after) VALUES ('op', 'catalog.tenant.added', %s, %s)",
                (TENANT, json.dumps({"name": "Forget Me Ltd", "tenant": TENANT})),
            )
        yield log


def forget(log: CountedLog, *words: str, **over: str) -> dict[str, Any]:
    ran = CliRunner().invoke(command, [*words, "--json"], env=environment_of(log.settings) | over, standalone_mode=False)
    if ran.exception is not None:
        raise ran.exception
    document: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return document


def holders(log: CountedLog, name: str) -> list[str]:
    """Every column of every table in both stores that holds the name in any row."""
    found = []
    with postgres.connect(log.settings) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        ).fetchall()
        for (table,) in tables:
            row = connection.execute(
                f"SELECT count(*) FROM {table} t WHERE position(%s in t::text) > 0"
                f" OR position(encode(%s::bytea, 'hex') in t::text) > 0",
                (name, name.encode()),
            ).fetchone()
            if row is not None and row[0]:
                found.append(f"postgres.{table}")
    for table in ("usage_events", "usage_rejects"):
        columns = log.pipeline.query(f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{table}'")
        for (column,) in columns:
            ((rows,),) = log.pipeline.query(f"SELECT count() FROM {table} WHERE position(toString({column}), '{name}') > 0")
            if rows:
                found.append(f"clickhouse.{table}.{column}")
    return found


def numbers(log: CountedLog) -> dict[str, Any]:
    """Everything that may not change."""
    with postgres.connect(log.settings) as connection:
        counters = connection.execute(
            "SELECT usage_type, day, sum(quantity), sum(events) FROM usage_counters GROUP BY 1, 2"
        ).fetchall()
        return {
            "fences": log.pipeline.fences(),
            "counters": counters,
            "by tenant": sorted(q for (q,) in connection.execute("SELECT sum(quantity) FROM usage_counters GROUP BY tenant_id")),
            "totals": sorted(q for (q,) in connection.execute("SELECT quantity FROM usage_totals")),
            "rows": sorted(
                tuple(row)
                for row in log.pipeline.query(
                    "SELECT kafka_partition, kafka_offset, key_hash, row_hash, toString(quantity), usage_type,"
                    " toString(occurred_at) FROM usage_events FINAL"
                )
            ),
            "rejects": sorted(
                tuple(row)
                for row in log.pipeline.query(
                    "SELECT kafka_partition, kafka_offset, verdict, reason, row_hash FROM usage_rejects FINAL"
                )
            ),
        }


def test_a_dry_run_counts_and_changes_nothing(log: CountedLog) -> None:
    before = numbers(log)
    found = forget(log, "--tenant", TENANT)
    (report,) = found["forgotten"]
    assert (found["done"], report["events"], report["rejects"], report["left"]) == (False, 22, 3, 0)
    assert report["postgres"]["usage_counters"] == 1
    assert report["pseudonym"] == PSEUDONYMS.of("tenant", TENANT)
    assert report["kafka_until"] > "2026"
    assert numbers(log) == before
    assert holders(log, TENANT)


def test_an_active_tenant_and_a_run_without_a_key_are_refused(log: CountedLog) -> None:
    with pytest.raises(MeterlineExit, match="the tenant is active"):
        forget(log, "--tenant", TENANT, "--yes")
    with pytest.raises(MeterlineExit) as told:
        forget(log, "--tenant", TENANT, METERLINE_FORGET_KEY="")
    assert told.value.code == Exit.SETTINGS


def test_no_name_of_the_tenant_is_left_and_no_number_changes(log: CountedLog) -> None:
    log.pipeline.postgres("UPDATE tenants SET status = 'inactive' WHERE tenant_id = %s RETURNING 1", TENANT)
    before = numbers(log)
    (report,) = forget(log, "--tenant", TENANT, "--yes")["forgotten"]
    assert (report["events"], report["rejects"], report["left"]) == (22, 3, 0)
    assert holders(log, TENANT) == []
    assert holders(log, "Forget Me Ltd") == []
    assert numbers(log) == before
    pseudonym = PSEUDONYMS.of("tenant", TENANT)
    rows = log.pipeline.postgres("SELECT quantity FROM usage_totals WHERE tenant_id = %s", pseudonym)
    assert rows == [(Decimal("30.5"),)]
    assert log.pipeline.postgres("SELECT stripe_customer_id FROM tenants WHERE tenant_id = %s", pseudonym) == [("cus_1",)]
    assert log.pipeline.postgres("SELECT tenant_id FROM users WHERE user_id = %s", USER) == [(pseudonym,)]
    (entry,) = log.pipeline.postgres("SELECT subject, after FROM audit WHERE what = 'tenant.forgotten'")
    assert entry[0] == pseudonym
    assert reconcile(log.settings, patience_s=0).ok
    credits_of = "SELECT available FROM credit_accounts WHERE tenant_id = %s"
    assert log.pipeline.postgres(credits_of, pseudonym) == [(Decimal("0.000005"),)] * 2
    # Repeating it finds nothing more.
    (report,) = forget(log, "--tenant", TENANT, "--yes")["forgotten"]
    assert (report["events"], report["rejects"]) == (0, 0)
    assert numbers(log) == before


def test_a_user_is_forgotten_and_the_tenant_keeps_its_usage(log: CountedLog) -> None:
    before = numbers(log)
    (report,) = forget(log, "--user", USER, "--yes")["forgotten"]
    assert (report["events"], report["rejects"]) == (5, 1)
    assert holders(log, USER) == []
    assert holders(log, "forgetful") == holders(log, "f@example.org") == []
    assert numbers(log) == before
    rows = log.pipeline.query("SELECT count() FROM usage_events FINAL WHERE tenant_id = 'tnt_1' AND metadata != ''")
    assert rows == [(15,)]
    assert reconcile(log.settings, patience_s=0).ok


def test_an_event_that_is_sent_again_is_known_whatever_became_of_its_names(log: CountedLog) -> None:
    """By a consumer that builds its index anew, as after a restart."""
    before = numbers(log)
    pipeline = log.pipeline
    for number in range(20):
        entity = f"{TENANT}-job-{number}"
        pipeline.send_event(entity, event(entity, "1.5", TENANT, metadata={"note": f"of {TENANT}"}))
    pipeline.send_event("other-2", event("other-2", "2", metadata={"userId": USER}))
    pipeline.send_event(f"{TENANT}-job-4", event(f"{TENANT}-job-4", "8", TENANT))
    pipeline.send_event("shared-1", event("shared-1", "1", "tnt_1"))
    corrects = {"sourceService": "worker", "sourceEntityId": f"{TENANT}-job-3", "usageType": "PHOTO"}
    pipeline.send_event("fix-1", event("fix-1", "-0.5", TENANT, kind="correction", corrects=corrects))
    pipeline.flush()
    consumer = pipeline.consume()
    aggregator = pipeline.aggregate()
    pipeline.settle()
    assert consumer.poll() is None
    after = numbers(log)
    assert after["rows"] == before["rows"]
    assert after["counters"] == before["counters"]
    was, now = Figures(), Figures()
    for fence in before["fences"]:
        was = was.plus(fence.figures)
    for fence in after["fences"]:
        now = now.plus(fence.figures)
    assert now.minus(was) == Figures(duplicate=22, conflict=2)
    for child in (consumer, aggregator):
        child.ask_to_stop()
        assert pipeline.wait_for_end(child) == 0
    # Without the key it would count them again; it leaves instead.
    pipeline.send_event(f"{TENANT}-job-9", event(f"{TENANT}-job-9", "1.5", TENANT))
    pipeline.flush()
    blind = pipeline.consume(forget_key="f" * 64)
    assert pipeline.wait_for_end(blind) == Exit.SETTINGS
    assert numbers(log)["rows"] == before["rows"]
    # The new reject holds the name again, as it came; it is forgotten like the first ones, while everything runs.
    pipeline.consume()
    pipeline.aggregate()
    pipeline.settle()
    with postgres.connect(log.settings) as connection:
        run(connection, credits.grant(Owner(TENANT, "u9"), Micros(7), by=By("a"), key="k"))
    (report,) = forget(log, "--tenant", TENANT, "--yes")["forgotten"]
    assert (report["events"], report["rejects"]) == (0, 2)
    assert holders(log, TENANT) == []
    with postgres.connect(log.settings) as connection:
        assert check_credits(connection).ok


def test_explain_finds_a_forgotten_event_for_whoever_still_knows_its_names(log: CountedLog) -> None:
    words = ["worker", f"{TENANT}-job-7", "PHOTO", "--json"]
    ran = CliRunner().invoke(explain, words, env=environment_of(log.settings), standalone_mode=False)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["verdict"].endswith("and counted, and forgotten since")
    assert found["admitted"][0]["forgotten"] is True
    assert found["admitted"][0]["tenant_id"] == PSEUDONYMS.of("tenant", TENANT)
    assert found["admitted"][0]["metadata_bytes"] == 0


def test_another_key_is_refused_for_ever(log: CountedLog) -> None:
    with pytest.raises(MeterlineExit, match="is another than the one") as told:
        forget(log, "--tenant", "x", METERLINE_FORGET_KEY="f" * 64)
    assert told.value.code == Exit.SETTINGS


def test_rows_that_come_back_are_told_and_forgotten_again(log: CountedLog) -> None:
    before = numbers(log)
    log.pipeline.clickhouse.command(
        f"INSERT INTO usage_events SELECT * REPLACE ('{TENANT}' AS tenant_id, '{TENANT}-job-5' AS source_entity_id)"
        f" FROM (SELECT * FROM usage_events WHERE tenant_id = '{PSEUDONYMS.of('tenant', TENANT)}' LIMIT 1)"
    )
    assert not reconcile(log.settings, patience_s=0).ok
    found = forget(log, "--again")
    assert [one["events"] for one in found["forgotten"]] == [1]
    forget(log, "--again", "--yes")
    assert holders(log, TENANT) == []
    assert reconcile(log.settings, patience_s=0).ok
    assert numbers(log) == before
    assert forget(log, "--again")["forgotten"] == []
