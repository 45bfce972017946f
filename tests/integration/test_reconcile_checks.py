"""Each check of `reconcile` against a system in which exactly that thing is wrong; and what a repair heals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner

from cli.commands.reconcile import command
from meterline_schemas.delta import Figures, encode_commit
from runtime import clickhouse, postgres
from runtime.settings import Settings
from store.counter_drift import differences
from store.fences import positions, read_fences
from store.invariants import check_keys
from store.reconcile import reconcile
from tests.fakes.pipeline import Pipeline, environment_of
from tests.integration.counted_log import CountedLog
from tests.integration.test_consume_crashes import event

EVENTS = 60


@pytest.fixture(scope="module")
def log(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedLog]:
    """Admitted events of three tenants on several days, equal and differing duplicates, conflicts, invalid records."""
    with Pipeline(migrated, tmp_path_factory.mktemp("reconcile")) as pipeline:
        log = CountedLog(migrated, pipeline)
        for number in range(EVENTS):
            entity = f"e{number}"
            fields: dict[str, Any] = {"tenant": f"tnt_{number % 3}", "metadata": {"n": number}}
            pipeline.send_event(entity, event(entity, **fields))
            if number % 10 == 0:
                pipeline.send_event(entity, event(entity, **fields))
                pipeline.send_event(entity, event(entity, "7", **fields))
                pipeline.send_event(entity, event(entity, "1.250", **fields))
                pipeline.send(b'{"tenantId": ', partition=number % pipeline.partitions)
                pipeline.send(None, partition=number % pipeline.partitions)
        log.advance()
        yield log


def failing(settings: Settings, **over: Any) -> dict[str, list[str]]:
    """The checks that fail, with what each says is wrong."""
    report = reconcile(settings, **({"patience_s": 0} | over))
    assert report.ok == (not report.drift)
    assert [check.invariant for check in report.checks] == ["I1", "I2", "I3", "I4", "I5", "I6"]
    told: dict[str, list[str]] = {}
    for finding in report.drift:
        told.setdefault(finding.invariant, []).append(finding.what)
    return told


def execute(settings: Settings, sql: str, *parameters: object) -> None:
    with postgres.connect(settings) as connection:
        assert connection.execute(sql.encode(), parameters).rowcount > 0


def mutate(settings: Settings, sql: str) -> None:
    with clickhouse.client(settings) as client:
        client.command(sql, settings={"mutations_sync": 2})


@contextmanager
def taken_away(settings: Settings, table: str, where: str) -> Iterator[None]:
    """The rows are gone within the block, and back after it."""
    mutate(settings, f"CREATE TABLE kept ENGINE = Memory AS SELECT * FROM {table} WHERE {where}")
    try:
        mutate(settings, f"ALTER TABLE {table} DELETE WHERE {where}")
        yield
        mutate(settings, f"INSERT INTO {table} SELECT * FROM kept")
    finally:
        mutate(settings, "DROP TABLE kept")


def admitted(settings: Settings) -> tuple[int, int]:
    """(partition, offset) of an admitted row."""
    with clickhouse.client(settings) as client:
        rows = client.query("SELECT kafka_partition, kafka_offset FROM usage_events ORDER BY ALL LIMIT 1").result_rows
    partition, offset = rows[0]
    return int(partition), int(offset)


def test_a_sound_system_at_rest_passes_every_check(log: CountedLog) -> None:
    report = reconcile(log.settings, patience_s=0)
    assert report.as_json() | {"checks": None} == {"ok": True, "checks": None, "drift": []}
    checks = {check.invariant: check for check in report.checks}
    assert checks["I1"].checked == sum(log.pipeline.ends())
    assert checks["I2"].checked == checks["I3"].checked == EVENTS
    assert checks["I4"].checked == 3
    assert checks["I6"].checked == 4 * EVENTS // 10
    assert "at rest" in checks["I5"].detail


def test_a_small_sample_of_the_log_says_how_small_it_was(log: CountedLog) -> None:
    (content,) = (check for check in reconcile(log.settings, patience_s=0, sample=5).checks if check.invariant == "I3")
    assert content.ok
    assert content.checked <= 5
    assert f"a sample of {content.checked} rows" in content.detail


def test_what_is_on_its_way_is_no_drift(log: CountedLog) -> None:
    for stage in ({"commit": False, "count": False}, {"count": False}):
        log.pipeline.send_event(f"late-{stage}", event(f"late-{stage}"))
        log.pipeline.send(b"{}", partition=0)
        log.pipeline.flush()
        assert failing(log.settings) == {}
        log.advance(**stage)
        assert failing(log.settings) == {}
    (order,) = (check for check in reconcile(log.settings, patience_s=0).checks if check.invariant == "I5")
    assert "on their way: 0 records to decide, 4 to count" in order.detail
    log.advance()
    assert failing(log.settings) == {}


def test_i1_fails_where_the_figures_of_a_fence_are_not_its_rows(log: CountedLog) -> None:
    execute(log.settings, "UPDATE delta_fences SET admitted = admitted - 1, duplicate = duplicate + 1 WHERE partition = 0")
    log.commit({0: log.pipeline.ends()[0]})
    told = failing(log.settings)
    execute(log.settings, "UPDATE delta_fences SET admitted = admitted + 1, duplicate = duplicate - 1 WHERE partition = 0")
    # The commit's note has the right figures, so the order of positions is not what it should be either.
    assert told == {"I1": ["admitted rows in ClickHouse"], "I5": ["figures in the commit"]}
    assert failing(log.settings) == {}


def test_i1_fails_where_a_row_is_another_than_the_counted_one(log: CountedLog) -> None:
    execute(
        log.settings, "UPDATE delta_fences SET hash_sum = CASE hash_sum WHEN 0 THEN 1 ELSE hash_sum - 1 END WHERE partition = 1"
    )
    told = failing(log.settings)
    execute(log.settings, "UPDATE delta_fences SET hash_sum = hash_sum + 1 WHERE partition = 1")
    assert told == {"I1": ["sum of row hashes in ClickHouse"], "I5": ["figures in the commit"]}
    assert failing(log.settings) == {}


def test_i2_fails_for_a_key_with_two_admitted_positions(log: CountedLog) -> None:
    partition, offset = admitted(log.settings)
    # In front of the fence, where nothing else looks yet; and of another tenant, so that no merge can hide it.
    later = 1 << 40
    mutate(
        log.settings,
        "INSERT INTO usage_events SELECT * REPLACE ('tnt_other' AS tenant_id, toUInt64(" + str(later) + ") AS kafka_offset,"
        f" bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), toUInt64({later}))) AS row_version) FROM"
        f" (SELECT * FROM usage_events WHERE kafka_partition = {partition} AND kafka_offset = {offset})",
    )
    report = reconcile(log.settings, repair_as="tester", patience_s=0)
    mutate(log.settings, f"ALTER TABLE usage_events DELETE WHERE kafka_offset = {later}")
    assert "1 keys were admitted more than once" in (report.refused or "")
    (finding,) = report.drift
    assert (finding.invariant, finding.found) == ("I2", f"1/{partition}/{offset}, 1/{partition}/{later}")
    assert failing(log.settings) == {}


def test_i3_fails_for_a_row_that_is_not_what_its_record_says(log: CountedLog) -> None:
    partition, offset = admitted(log.settings)
    where = f"kafka_partition = {partition} AND kafka_offset = {offset}"
    mutate(log.settings, f"ALTER TABLE usage_events UPDATE key_murmur2 = bitXor(key_murmur2, 1) WHERE {where}")
    report = reconcile(log.settings, patience_s=0)
    mutate(log.settings, f"ALTER TABLE usage_events UPDATE key_murmur2 = bitXor(key_murmur2, 1) WHERE {where}")
    (finding,) = report.drift
    assert (finding.invariant, finding.where) == ("I3", {"position": f"1/{partition}/{offset}"})
    assert finding.expected.startswith("key_murmur2 ")
    assert failing(log.settings) == {}


@pytest.mark.parametrize(
    ("corrupt", "what"),
    [
        ("UPDATE usage_counters SET quantity = quantity + 0.000001 WHERE tenant_id = 'tnt_1'", ["counter", "total"]),
        ("UPDATE usage_counters SET events = events - 1 WHERE tenant_id = 'tnt_1'", ["counter"]),
        ("DELETE FROM usage_counters WHERE tenant_id = 'tnt_2'", ["counter", "total"]),
        ("INSERT INTO usage_counters VALUES ('tnt_0', 'PHOTO', '1999-01-01', 5, 1)", ["counter", "total"]),
        ("UPDATE usage_totals SET quantity = quantity - 1 WHERE tenant_id = 'tnt_0'", ["total"]),
        ("DELETE FROM usage_totals", ["total"] * 3),
    ],
)
def test_i4_fails_for_a_changed_counter_and_a_repair_heals_it(log: CountedLog, corrupt: str, what: list[str]) -> None:
    before = counters(log.settings)
    execute(log.settings, corrupt)
    assert failing(log.settings) == {"I4": what}
    fences = log.pipeline.fences()
    healed = reconcile(log.settings, repair_as="tester", patience_s=0)
    assert healed.ok
    assert healed.healed is not None
    assert (healed.healed.counters > 0) == ("counter" in what)
    assert counters(log.settings) == before
    assert log.pipeline.fences() == fences
    who, after = log.pipeline.postgres("SELECT who, after FROM audit WHERE what = 'counters.repaired' ORDER BY id DESC LIMIT 1")[
        0
    ]
    assert who == "tester"
    assert after["counters"] == healed.healed.counters


def test_a_repair_leaves_a_closed_period_and_the_fences_as_they_are(log: CountedLog) -> None:
    execute(
        log.settings,
        "INSERT INTO period_closes VALUES ('tnt_1', '2026-10-01', '2026-11-01', 'closed', '{}', '{\"PHOTO\": \"1\"}')",
    )
    closed = log.pipeline.postgres("SELECT * FROM period_closes")
    execute(log.settings, "UPDATE usage_counters SET quantity = 1 WHERE tenant_id = 'tnt_1'")
    assert reconcile(log.settings, repair_as="tester", patience_s=0).ok
    assert log.pipeline.postgres("SELECT * FROM period_closes") == closed


def test_counters_are_compared_alike_in_blocks_of_any_size(log: CountedLog) -> None:
    strange = [("", "PHOTO"), ("\u00e9", "A"), ("tnt_1", "PHOTO\U0001f4f7"), ("tnt_1\x7f", "B"), ("tnt_2", "")]
    for tenant, usage_type in strange:
        execute(log.settings, "INSERT INTO usage_counters VALUES (%s, %s, '2000-01-01', -3, 1)", tenant, usage_type)
    execute(log.settings, "DELETE FROM usage_counters WHERE tenant_id = 'tnt_0'")
    with clickhouse.client(log.settings) as client:
        seen = []
        for lines in (1, 2, 3, 7, 8, 20_000):
            with postgres.connect(log.settings) as connection:
                vector = positions(read_fences(connection))
                found = list(differences(connection, client, vector, block_lines=lines))
            seen.append(sorted((one for one in found if not isinstance(one, int)), key=lambda one: one.line))
            assert sum(one for one in found if isinstance(one, int)) == 3 + len(strange)
    assert {one.line[:2] for one in seen[0]} == {*strange, ("tnt_0", "PHOTO")}
    assert all(one == seen[0] for one in seen)
    assert reconcile(log.settings, repair_as="tester", patience_s=0).ok


def test_keys_are_compared_alike_in_slices_of_any_size(log: CountedLog) -> None:
    with clickhouse.client(log.settings) as client:
        assert [check_keys(client, stretch_keys=size).ok for size in (1, 7, 1_000)] == [True] * 3
        assert "in 1 slices" in check_keys(client, stretch_keys=1_000).detail


def counters(settings: Settings) -> list[Any]:
    with postgres.connect(settings) as connection:
        lines = connection.execute("SELECT * FROM usage_counters ORDER BY 1, 2, 3").fetchall()
        totals = connection.execute("SELECT tenant_id, usage_type, quantity FROM usage_totals ORDER BY 1, 2").fetchall()
    return [*lines, *totals]


def test_a_lost_row_is_told_and_a_repair_refuses_to_bring_the_counters_down_to_it(log: CountedLog) -> None:
    partition, offset = admitted(log.settings)
    before = counters(log.settings)
    with taken_away(log.settings, "usage_events", f"kafka_partition = {partition} AND kafka_offset = {offset}"):
        told = failing(log.settings)
        refused = reconcile(log.settings, repair_as="tester", patience_s=0)
    # The counters are what was counted; the figures say that it is ClickHouse that lost something.
    assert told == {"I1": ["admitted rows in ClickHouse"], "I4": ["counter"]}
    assert not refused.ok
    assert refused.healed is None
    assert "does not hold the rows that were counted" in (refused.refused or "")
    assert counters(log.settings) == before
    assert failing(log.settings) == {}


def test_i5_fails_for_positions_out_of_order_and_for_notes_that_do_not_fit(log: CountedLog) -> None:
    end = log.pipeline.ends()[2]
    log.commit({2: end - 1}, metadata=encode_commit(1, end - 1, 1, Figures(void=end - 1)))
    assert failing(log.settings) == {"I5": ["committed offset below the fence"]}
    log.commit({2: end - 1}, metadata=encode_commit(1, end, 1, Figures(void=end)))
    assert failing(log.settings) == {"I5": ["committed offset below the fence", "commit metadata"]}
    log.commit({2: end}, metadata="")
    assert failing(log.settings) == {"I5": ["commit metadata"]}
    log.commit({2: end + 5}, metadata="v1;1;1;1;0;0;0;0;0;0")
    assert failing(log.settings) == {"I5": ["commit metadata", "position behind the log's end"]}
    log.commit({2: end})
    assert failing(log.settings) == {}


def test_i6_fails_for_a_lost_reject_and_for_changed_bytes(log: CountedLog) -> None:
    for verdict in ("invalid", "conflict"):
        with taken_away(log.settings, "usage_rejects", at_reject(log.settings, verdict)):
            assert failing(log.settings) == {"I6": [f"rejects with verdict {verdict}"]}
    where = at_reject(log.settings, "conflict")
    with taken_away(log.settings, "usage_rejects", where):
        mutate(log.settings, "INSERT INTO usage_rejects SELECT * REPLACE ('' AS raw_value) FROM kept")
        told = failing(log.settings)
        mutate(log.settings, f"ALTER TABLE usage_rejects DELETE WHERE {where}")
    assert told == {"I6": ["raw bytes"]}
    assert failing(log.settings) == {}


def at_reject(settings: Settings, verdict: str) -> str:
    """A condition that one reject meets."""
    with clickhouse.client(settings) as client:
        sql = f"SELECT kafka_partition, kafka_offset FROM usage_rejects WHERE verdict = '{verdict}' ORDER BY ALL LIMIT 1"
        ((partition, offset),) = client.query(sql).result_rows
    return f"kafka_partition = {partition} AND kafka_offset = {offset}"


def test_rejects_that_may_have_been_dropped_by_age_are_no_drift(log: CountedLog) -> None:
    later = datetime.now(UTC) + timedelta(days=log.settings.rejects_keep_days + 1)
    with taken_away(log.settings, "usage_rejects", "1"):
        assert set(failing(log.settings)) == {"I6"}
        assert failing(log.settings, now=lambda: later) == {}


def test_the_command_says_ok_or_drift_by_its_status_and_its_json(log: CountedLog) -> None:
    def run(*words: str) -> tuple[int, str]:
        ran = CliRunner().invoke(command, [*words, "--wait", "0"], env=environment_of(log.settings), standalone_mode=False)
        assert ran.exception is None, ran.output
        return ran.return_value, ran.stdout

    code, out = run("--json")
    document = json.loads(out)
    assert (code, document["ok"], document["drift"]) == (0, True, [])
    execute(log.settings, "UPDATE usage_counters SET quantity = %s WHERE tenant_id = 'tnt_1'", Decimal(3))
    code, out = run()
    assert code == 1
    assert "DRIFT" in out
    assert "tnt_1" in out
    code, out = run("--repair", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (0, True)
    assert document["repair"] == {"counters": 1, "totals": 0, "refused": None}
