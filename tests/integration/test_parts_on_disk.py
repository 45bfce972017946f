"""What lies on ClickHouse's disk: nothing acknowledged is only in memory, even after a merge; small parts are one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from runtime import clickhouse
from runtime.settings import Settings
from store.migrate import migrate_clickhouse
from tests.integration.clickhouse_gateway import WRITER, GatewayProcess

_EVENTS = (
    "INSERT INTO usage_events SELECT 't', 'U', 's', toString(number), 1, 'usage', '', '2026-11-21 10:00:00',"
    " '2026-11-21 10:00:00', '', 1, 0, number, number * 1000003, 0, 0, 1,"
    " bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), number)) FROM numbers(%d, %d)"
)
_REJECTS = (
    "INSERT INTO usage_rejects (log_epoch, kafka_partition, kafka_offset, verdict, reason, ingested_at)"
    " SELECT 1, 0, number, 'invalid', 'not_utf8', '2026-11-21 10:00:00' FROM numbers(%d, %d)"
)
_FORGOTTEN = "INSERT INTO forgotten SELECT 'tenant', toString(number), '', '2026-11-21 10:00:00' FROM numbers(%d, %d)"


@pytest.fixture
def client(settings: Settings, tmp_path: Path) -> Iterator[Client]:
    """Migrated tables on a server of their own, so that nobody else's files are counted; it merges only when told to."""
    with GatewayProcess(tmp_path / "gateway") as gateway:
        own = settings.model_copy(update={"clickhouse_url": f"http://{WRITER[0]}:{WRITER[1]}@127.0.0.1:{gateway.port}/parts"})
        migrate_clickhouse(own)
        client = clickhouse.client(own)
        client.command("SYSTEM STOP MERGES")
        yield client
        client.close()


def synced(client: Client) -> int:
    """Files that were written through to the disk, so far."""
    return int(client.query("SELECT sum(value) FROM system.events WHERE event = 'FileSync'").result_rows[0][0])


def parts(client: Client, table: str = "usage_events") -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in client.query(
            "SELECT rows, part_storage_type, arraySort(projections) FROM system.parts"
            " WHERE database = currentDatabase() AND table = {table:String} AND active ORDER BY min_block_number",
            {"table": table},
        ).result_rows
    ]


def merge(client: Client, table: str) -> None:
    client.command("SYSTEM START MERGES")
    client.command(f"OPTIMIZE TABLE {table} FINAL")
    client.command("SYSTEM STOP MERGES")


@pytest.mark.parametrize(("table", "insert"), [("usage_events", _EVENTS), ("usage_rejects", _REJECTS), ("forgotten", _FORGOTTEN)])
def test_a_merged_part_is_on_the_disk_before_the_parts_that_it_replaces_are_deleted(
    client: Client, table: str, insert: str
) -> None:
    for start in (0, 10):
        before = synced(client)
        client.command(insert % (start, 10))
        assert synced(client) > before, "an insert was acknowledged out of memory"
    before = synced(client)
    merge(client, table)
    assert len(parts(client, table)) == 1
    assert synced(client) > before, "what the inserts had made durable was replaced by a part in memory"


def test_what_is_left_after_rows_were_deleted_is_on_the_disk(client: Client) -> None:
    client.command(_EVENTS % (0, 60))
    client.command("SYSTEM START MERGES")
    before = synced(client)
    client.command("ALTER TABLE usage_events DELETE WHERE kafka_offset = 7", settings={"mutations_sync": 2})
    assert [rows for rows, *_ in parts(client)] == [59]
    # The mutation's own file is one of them; the part that holds what is kept is the other.
    assert synced(client) == before + 2, "who is forgotten would take what is kept along, if the power failed"


def test_a_small_insert_waits_for_one_file(client: Client) -> None:
    before = synced(client)
    client.command(_EVENTS % (0, 60))
    assert synced(client) == before + 1
    assert parts(client) == [(60, "Packed", [])]


def test_a_merge_makes_the_projections_and_a_look_up_finds_rows_of_parts_with_and_without_them(client: Client) -> None:
    client.command(_EVENTS % (0, 30_000))
    client.command(_EVENTS % (30_000, 30_000))
    merge(client, "usage_events")
    client.command(_EVENTS % (60_000, 60))
    assert [(rows, projections) for rows, _, projections in parts(client)] == [(60_000, ["by_key", "by_position"]), (60, [])]

    by_position = (
        "SELECT count(), min(kafka_offset), max(kafka_offset) FROM usage_events"
        " WHERE log_epoch = 1 AND kafka_partition = 0 AND kafka_offset >= 59990"
    )
    assert client.query(by_position).result_rows == [(70, 59_990, 60_059)]
    by_key = f"SELECT kafka_offset FROM usage_events WHERE key_hash IN ({7 * 1000003}, {60_007 * 1000003}) ORDER BY kafka_offset"
    assert client.query(by_key).result_rows == [(7,), (60_007,)]


def test_a_repeated_insert_counts_once_although_its_part_has_no_projections_yet(client: Client) -> None:
    client.command(_EVENTS % (0, 60))
    client.command(_EVENTS % (60, 60))
    merge(client, "usage_events")
    client.command(_EVENTS % (0, 60))
    merge(client, "usage_events")
    assert len(parts(client)) == 2, "this version merges parts with and without projections: decision 47 says that none does"
    assert client.query("SELECT count(), toString(sum(quantity)) FROM usage").result_rows == [(120, "120")]
