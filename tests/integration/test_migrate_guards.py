"""What the databases refuse by themselves, whatever a stage gets wrong; and that exact sums stay exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from runtime import clickhouse, postgres
from runtime.settings import Settings
from store.epochs import Epoch, begin_epoch
from store.migrate import migrate_clickhouse, migrate_postgres


@pytest.fixture(scope="module")
def schema(settings: Settings) -> Settings:
    migrate_postgres(settings)
    migrate_clickhouse(settings)
    return settings


@pytest.fixture
def connection(schema: Settings) -> Iterator[psycopg.Connection[Any]]:
    """With epoch 1 of two partitions that start at 0 and 5. Nothing that a test writes stays."""
    with postgres.connect(schema) as connection:
        begin_epoch(connection, Epoch(1, "e", "c", "i", 2, (0, 5), None), 1)
        yield connection
        connection.rollback()


@pytest.fixture
def client(schema: Settings) -> Iterator[Client]:
    client = clickhouse.client(schema)
    client.command("TRUNCATE TABLE usage_events")
    client.command("TRUNCATE TABLE usage_rejects")
    yield client
    client.close()


MOVE = "UPDATE delta_fences SET next_offset = 9, admitted = 2, duplicate = 1, void = 1 WHERE partition = 1"


def test_a_fence_moves_when_every_offset_has_its_verdict(connection: psycopg.Connection[Any]) -> None:
    assert connection.execute(MOVE).rowcount == 1


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE delta_fences SET next_offset = 8 WHERE partition = 1", "may not move back from 9 to 8"),
        ("UPDATE delta_fences SET next_offset = 10 WHERE partition = 1", "has 4 verdicts for 5 offsets"),
        ("UPDATE delta_fences SET admitted = admitted + 1 WHERE partition = 1", "has 5 verdicts for 4 offsets"),
        ("UPDATE delta_fences SET admitted = -1, duplicate = 4 WHERE partition = 1", "delta_fences_admitted_check"),
        ("UPDATE delta_fences SET hash_sum = 18446744073709551616 WHERE partition = 1", "delta_fences_hash_sum_check"),
        ("UPDATE delta_fences SET hash_sum = 'NaN' WHERE partition = 1", "delta_fences_hash_sum_check"),
        ("UPDATE delta_fences SET partition = 3 WHERE partition = 1", "no partition 3"),
        ("INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (1, 2, 0, 1)", "no partition 2"),
        ("INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (2, 0, 0, 1)", "epoch 2 has no"),
        ("UPDATE epochs SET starts = '{0,0}'", "epoch 1 is history"),
        ("UPDATE epochs SET topic_id = 'another'", "epoch 1 is history"),
        ("UPDATE epochs SET ends = '{1}'", "epochs_check"),
        ("INSERT INTO epochs VALUES (65536, 'x', 'c', 'i', 1, '{0}')", "epochs_epoch_check"),
        ("INSERT INTO epochs VALUES (2, 'x', 'c', 'i', 1, '{-1}')", "epochs_check"),
        ("INSERT INTO epochs VALUES (2, 'x', 'c', 'i', 1, '{NULL}')", "epochs_check"),
        ("UPDATE rules_from SET version = 2", "never changed or removed"),
        ("DELETE FROM rules_from", "never changed or removed"),
        ("INSERT INTO usage_counters VALUES ('t', 'U', '2026-11-21', 'NaN', 1)", "exact_quantity"),
        ("INSERT INTO usage_counters VALUES ('t', 'U', '2026-11-21', 'Infinity', 1)", "exact_quantity"),
        ("INSERT INTO usage_counters VALUES ('t', 'U', '2026-11-21', 0.0000001, 1)", "exact_quantity"),
        ("INSERT INTO usage_counters VALUES ('t', 'U', '2026-11-21', 1, -1)", "usage_counters_events_check"),
        ("INSERT INTO usage_totals VALUES ('t', 'U', 'NaN', now())", "exact_quantity"),
        ("INSERT INTO outbox (topic, record_key, value, sent_at) VALUES ('t', '', '', now())", "outbox_check"),
        ("INSERT INTO service_secrets VALUES ('s', 'short', '{a}')", "service_secrets_secret_hash_check"),
    ],
)  # fmt: skip
def test_postgres_refuses(connection: psycopg.Connection[Any], statement: str, told: str) -> None:
    connection.execute(MOVE)
    with pytest.raises(psycopg.errors.CheckViolation, match=told):
        connection.execute(statement.encode())


def test_an_epoch_ends_once(connection: psycopg.Connection[Any]) -> None:
    connection.execute("UPDATE epochs SET ends = '{7,9}'")
    with pytest.raises(psycopg.errors.CheckViolation, match="is history"):
        connection.execute("UPDATE epochs SET ends = '{7,10}'")


def test_ten_of_the_largest_quantities_add_up_exactly_in_postgres(connection: psycopg.Connection[Any]) -> None:
    for _ in range(10):
        connection.execute(
            "INSERT INTO usage_totals AS t VALUES ('t', 'U', 999999999999.999999, now())"
            " ON CONFLICT (tenant_id, usage_type) DO UPDATE SET quantity = t.quantity + excluded.quantity"
        )
    assert connection.execute("SELECT quantity::text FROM usage_totals").fetchone() == ("9999999999999.999990",)


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE period_closes SET totals = \'{"U": "2"}\'',
        "UPDATE period_closes SET state = 'copied'",
        "DELETE FROM period_closes",
    ],
)
def test_a_closed_period_never_changes(connection: psycopg.Connection[Any], statement: str) -> None:
    connection.execute("INSERT INTO period_closes VALUES ('t', '2026-10-01', '2026-11-01', 'copied', '{}', '{}')")
    connection.execute('UPDATE period_closes SET totals = \'{"U": "1"}\'')  # until it is closed, the next copy replaces it
    connection.execute("UPDATE period_closes SET state = 'closed'")
    with pytest.raises(psycopg.errors.CheckViolation, match="is closed"):
        connection.execute(statement.encode())


PLANNED = (
    "INSERT INTO export_ledger (account, livemode, tenant_id, customer_id, meter, period_start, period_end, revision, identifier,"
    " exact_total, value, remainder, event_time, positions, state)"
    " VALUES ('a', false, 't', 'cus', 'm', '2026-11-01', '2026-12-01', 1, 'i', 1.5, 1, 0.5, now(), '{}', 'planned')"
)


def test_a_ledger_row_is_never_removed_for_what_became_of_it_is_on_record(connection: psycopg.Connection[Any]) -> None:
    connection.execute(PLANNED)
    with pytest.raises(psycopg.errors.ForeignKeyViolation), connection.transaction():
        connection.execute("DELETE FROM export_ledger")
    with pytest.raises(psycopg.errors.CheckViolation, match="stays on record"), connection.transaction():
        connection.execute("DELETE FROM export_transitions")
    connection.execute("UPDATE export_ledger SET state = 'sending'")
    with pytest.raises(psycopg.errors.CheckViolation, match="may not be removed"):
        connection.execute("DELETE FROM export_ledger")


def test_history_is_never_rewritten(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO audit (who, what, subject) VALUES ('a', 'b', 'c')")
    with pytest.raises(psycopg.errors.CheckViolation, match="may not be changed"):
        connection.execute("UPDATE audit SET who = 'z'")


# -- ClickHouse ----------------------------------------------------------------------------------------------------

ROW = {
    "tenant_id": "'t'", "usage_type": "'U'", "source_service": "'s'", "source_entity_id": "'e'", "quantity": "1.5",
    "kind": "'usage'", "corrects": "''", "occurred_at": "'2026-11-21 10:00:00.123'", "ingested_at": "'2026-11-21 10:00:01'",
    "log_epoch": "1", "kafka_partition": "0", "kafka_offset": "7", "key_hash": "11", "row_hash": "22",
    "row_version": "bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), 7))",
}  # fmt: skip


def insert(client: Client, **over: str) -> None:
    row = ROW | over
    if "kafka_offset" in over and "row_version" not in over:
        row["row_version"] = f"bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), {over['kafka_offset']}))"
    client.command(f"INSERT INTO usage_events ({', '.join(row)}) VALUES ({', '.join(row.values())})")


@pytest.mark.parametrize(
    ("over", "constraint"),
    [
        ({"row_version": "1"}, "position_is_one_word"),
        ({"log_epoch": "0", "row_version": "bitNot(toUInt64(7))"}, "position_is_one_word"),
        ({"tenant_id": "''"}, "ids_are_given"),
        ({"source_entity_id": "''"}, "ids_are_given"),
        ({"kind": "'refund'"}, "only_corrections_correct"),
        ({"kind": "'correction'"}, "only_corrections_correct"),
        ({"corrects": "'1:s,1:e,1:U,'"}, "only_corrections_correct"),
        ({"quantity": "-1"}, "only_corrections_are_negative"),
    ],
)
def test_clickhouse_refuses_a_row_that_later_stages_could_not_rely_on(
    client: Client, over: dict[str, str], constraint: str
) -> None:
    with pytest.raises(DatabaseError, match=constraint):
        insert(client, **over)
    assert client.query("SELECT count() FROM usage_events").result_rows == [(0,)]


def test_a_repeated_insert_is_one_row_to_analysts_before_and_after_it_has_collapsed(client: Client) -> None:
    for _ in range(3):
        insert(client)
    insert(client, kind="'correction'", corrects="'1:s,1:e,1:U,'", quantity="-0.5", source_entity_id="'c'", kafka_offset="8")

    def seen() -> list[object]:
        return [
            client.query("SELECT toString(quantity), events, toString(day) FROM usage_daily").result_rows,
            client.query("SELECT toString(quantity), events, toString(month) FROM usage_by_tenant_month").result_rows,
            client.query("SELECT count() FROM usage").result_rows,
        ]

    expected = [[("1", 2, "2026-11-21")], [("1", 2, "2026-11-01")], [(2,)]]
    assert seen() == expected
    client.command("OPTIMIZE TABLE usage_events FINAL")
    assert client.query("SELECT count() FROM usage_events").result_rows == [(2,)]
    assert seen() == expected


def test_of_two_rows_of_a_key_the_first_position_stays(client: Client) -> None:
    insert(client, kafka_offset="3")
    insert(client, kafka_offset="9")
    insert(client, kafka_offset="5")
    assert client.query("SELECT kafka_offset FROM usage").result_rows == [(3,)]
    client.command("OPTIMIZE TABLE usage_events FINAL")
    assert client.query("SELECT kafka_offset FROM usage_events").result_rows == [(3,)]


def test_sums_of_the_largest_quantities_do_not_wrap_in_the_views(client: Client) -> None:
    for offset in range(12):
        insert(client, quantity="999999999999.999999", source_entity_id=f"'e{offset}'", kafka_offset=str(offset))
    for view in ("usage_daily", "usage_by_tenant_month"):
        assert client.query(f"SELECT toString(quantity) FROM {view}").result_rows == [("11999999999999.999988",)]


@pytest.mark.parametrize(
    ("query", "projection"),
    [
        ("SELECT row_hash FROM usage_events WHERE log_epoch = 1 AND kafka_partition = 0 AND kafka_offset >= 5", "by_position"),
        (
            "SELECT source_service, source_entity_id, kafka_offset FROM usage_events WHERE key_hash IN (7000021, 9000027)",
            "by_key",
        ),
    ],
)
def test_a_look_up_by_position_or_key_reads_its_projection(client: Client, query: str, projection: str) -> None:
    client.command(
        "INSERT INTO usage_events SELECT 't', 'U', 's', toString(number), 1, 'usage', '', '2026-11-21 10:00:00',"
        " '2026-11-21 10:00:00', '', 1, 0, number, number * 1000003, 0, 0, 1,"
        " bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), number)) FROM numbers(50000)"
    )
    client.command("OPTIMIZE TABLE usage_events FINAL")
    # The server refuses (code 584) where the projection cannot serve.
    forced = {"force_optimize_projection": 1, "force_optimize_projection_name": projection}
    assert client.query(query, settings=forced).row_count > 0


def test_a_repeated_reject_collapses_by_its_position(client: Client) -> None:
    for _ in range(2):
        client.command(
            "INSERT INTO usage_rejects"
            " (log_epoch, kafka_partition, kafka_offset, verdict, reason, ingested_at, raw_value, headers)"
            " VALUES (1, 0, 7, 'invalid', 'not_utf8', '2026-11-21 10:00:00', unhex('00ff80'), [('schema-version', '1')])"
        )
    client.command("OPTIMIZE TABLE usage_rejects FINAL")
    assert client.query("SELECT hex(raw_value), headers FROM usage_rejects").result_rows == [
        ("00FF80", [("schema-version", "1")])
    ]


def test_a_reject_without_a_verdict_that_is_kept_is_refused(client: Client) -> None:
    with pytest.raises(DatabaseError, match="verdict_is_known"):
        client.command(
            "INSERT INTO usage_rejects (log_epoch, kafka_partition, kafka_offset, verdict, reason, ingested_at)"
            " VALUES (1, 0, 7, 'admitted', 'x', '2026-11-21 10:00:00')"
        )
