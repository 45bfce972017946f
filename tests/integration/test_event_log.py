"""Reads of the event log by position and key: copies that have not collapsed are seen once, and sums are exact."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver.client import Client

from metering.index import CommittedIndex
from metering.ranges import Decided, Pending, decide
from metering.reading import read
from meterline_schemas.delta import Figures
from meterline_schemas.key import dedup_key
from meterline_schemas.rules import RULES
from runtime import clickhouse
from runtime.settings import Settings
from store import event_log
from tests.unit.records import PARTITIONS, body, entities, span

LARGEST = "999999999999.999999"


def decided(
    first: int, values: list[bytes | None], partition: int = 0, epoch: int = 1, pending: Pending | None = None
) -> Decided:
    work = span(partition, first, values, epoch=epoch)
    return decide(read(work, RULES[1], PARTITIONS), RULES[1], pending or Pending(), {}, Figures(invalid=first))


def insert(client: Client, *ranges: Decided) -> None:
    event_log.insert(client, event_log.admitted_rows(ranges), event_log.reject_rows(ranges))


def ignore(_: object) -> None:
    """Of the keys that are handed over."""


@pytest.fixture
def client(migrated: Settings) -> Iterator[Client]:
    opened = clickhouse.client(migrated)
    for table in ("usage_events", "usage_rejects"):
        opened.command(f"SYSTEM STOP MERGES {table}")
        opened.command(f"TRUNCATE TABLE {table}")
    yield opened
    opened.close()


def test_identical_copies_are_one_row_an_offset_whatever_is_read(client: Client) -> None:
    work = decided(5, [body(entity, "1.5") for entity in entities(0, 4)])
    for _ in range(3):
        insert(client, work)
    (copies,) = client.query("SELECT count() FROM usage_events").result_rows
    assert copies[0] > 4, "the copies must lie there for the test to mean anything"
    hashes: list[int] = []
    held = event_log.held_below(client, 1, 0, 9, lambda stretch: hashes.extend(stretch.tolist()))
    assert held == event_log.Held(4, work.figures.hash_sum)
    assert sorted(hashes) == sorted(work.ranked.tolist())
    found = event_log.recompute(client, 1, 0, 5, 9)
    assert (found.lines, found.events, found.hash_sum) == (work.delta.lines, 4, work.figures.hash_sum)
    assert event_log.confirm(client, work.ranked) == work.claims(work.ranked)


def test_a_position_bounds_what_is_read_below_it_and_other_partitions_do_not_show(client: Client) -> None:
    insert(client, decided(0, [body(entity) for entity in entities(0, 5)]), decided(0, [body(entities(1, 1)[0])], partition=1))
    assert event_log.held_below(client, 1, 0, 3, ignore).admitted == 3
    assert event_log.held_below(client, 1, 0, 0, ignore).admitted == 0
    assert event_log.held_below(client, 1, 1, 100, ignore).admitted == 1
    assert event_log.recompute(client, 1, 0, 1, 4).events == 3
    assert event_log.recompute(client, 1, 3, 0, 100) == event_log.Recomputed((), 0, 0)


def test_an_index_that_lacks_a_row_or_has_one_too_many_does_not_match_the_figures(client: Client) -> None:
    work = decided(0, [body(entity) for entity in entities(0, 3)])
    insert(client, work)
    held = event_log.held_below(client, 1, 0, 3, ignore)
    assert held.matches(work.figures)
    assert not event_log.held_below(client, 1, 0, 2, ignore).matches(work.figures)
    assert not held.matches(Figures(admitted=3, hash_sum=work.figures.hash_sum ^ 1))


def test_sums_beyond_64_bits_and_the_smallest_unit_are_exact(client: Client) -> None:
    names = entities(0, 13)
    work = decided(0, [*(body(name, LARGEST) for name in names[:12]), body(names[12], "0.000001")])
    insert(client, work)
    found = event_log.recompute(client, 1, 0, 0, 100)
    assert [line.quantity for line in found.lines] == [12 * 999_999_999_999_999_999 + 1]
    total = event_log.totals_below(client, {(1, 0): 100}, date(2026, 9, 1), date(2026, 10, 1), "tnt_1")
    assert total == {"PHOTO": Decimal(LARGEST) * 12 + Decimal("0.000001")}


def test_totals_of_a_period_take_only_its_days_below_its_positions_of_its_tenant(client: Client) -> None:
    names = entities(0, 4)
    values = [
        body(names[0], "1", occurredAt="2026-08-01T00:00:00Z"),
        body(names[1], "2", occurredAt="2026-08-31T23:59:59.999Z"),
        body(names[2], "4", occurredAt="2026-09-01T00:00:00Z"),
        body(names[3], "8", tenant="tnt_2", occurredAt="2026-08-15T00:00:00Z"),
    ]
    insert(client, decided(0, list(values)))

    def total(upto: int, tenant: str = "tnt_1") -> dict[str, Decimal]:
        return event_log.totals_below(client, {(1, 0): upto}, date(2026, 8, 1), date(2026, 9, 1), tenant)

    assert total(4) == {"PHOTO": Decimal(3)}
    assert total(1) == {"PHOTO": Decimal(1)}
    assert total(0) == {}
    assert total(4, "tnt_2") == {"PHOTO": Decimal(8)}
    assert event_log.totals_below(client, {}, date(2026, 8, 1), date(2026, 9, 1), "tnt_1") == {}


def test_confirm_gives_the_smallest_position_of_a_key_and_reads_more_hashes_than_one_statement_takes(client: Client) -> None:
    (entity,) = entities(0, 1)
    first, again = decided(7, [body(entity)]), decided(9, [body(entity)])
    insert(client, again)
    insert(client, first)
    many = np.unique(np.concatenate((first.ranked, np.arange(event_log.CONFIRM_HASHES_MAX * 2, dtype=np.uint64))))
    claims = event_log.confirm(client, many)
    assert claims == {dedup_key("worker", entity, "PHOTO"): first.claims(first.ranked)[dedup_key("worker", entity, "PHOTO")]}
    assert event_log.confirm(client, many[:0]) == {}


def test_a_correction_comes_back_with_its_sign_kind_and_what_it_corrects(client: Client) -> None:
    (entity,) = entities(0, 1)
    over: dict[str, Any] = {
        "kind": "correction",
        "corrects": {"sourceService": "w", "sourceEntityId": "\u00e9:1", "usageType": "PHOTO"},
    }
    work = decided(0, [body(entity, "-2.5", **over)])
    insert(client, work)
    (claim,) = event_log.confirm(client, work.ranked).values()
    assert (claim.quantity, claim.kind, claim.corrects) == (-2_500_000, "correction", dedup_key("w", "\u00e9:1", "PHOTO"))
    assert event_log.recompute(client, 1, 0, 0, 1).lines == work.delta.lines


def test_the_keys_of_an_older_epoch_come_with_what_selects_their_slot_and_copies_count_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = decided(0, [body(entity) for entity in entities(0, 6)])
    insert(client, old, old, decided(0, [body(entity) for entity in entities(0, 8)[6:]], epoch=2))
    assert event_log.held_below(client, 2, 0, 10, ignore).admitted == 2
    for stretch in (event_log.STRETCH_OFFSETS, 4):
        monkeypatch.setattr(event_log, "STRETCH_OFFSETS", stretch)
        found = list(event_log.keys_between(client, 1, 0, 0, 6))
        assert len(found) == -(-6 // min(stretch, 6))
        hashes = np.concatenate([keys.hashes for keys in found])
        murmurs = np.concatenate([keys.murmurs for keys in found])
        assert sorted(hashes.tolist()) == sorted(old.ranked.tolist())
        assert {int(murmur & 0x7FFFFFFF) % PARTITIONS for murmur in murmurs} == {0}
        assert sum(int(keys.row_hashes.sum(dtype=np.uint64)) for keys in found) % (1 << 64) == old.figures.hash_sum
        assert event_log.rows_between(client, 1, 0, 0, 6) == (6, old.figures.hash_sum)
    assert [len(keys.hashes) for keys in event_log.keys_between(client, 1, 1, 0, 5)] == [0, 0]
    assert list(event_log.keys_between(client, 1, 0, 3, 3)) == []


def test_the_last_range_of_a_long_log_is_read_without_reading_the_log(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 400_000
    # Tenants, and so the table's own order, are spread over all offsets; only the projection by position has a range together.
    client.command(
        "INSERT INTO usage_events SELECT concat('tnt_', toString(number % 1000)), 'PHOTO', 'worker', toString(number),"
        " toDecimal64(1, 6), 'usage', '', toDateTime64('2026-09-21 00:00:00', 3, 'UTC'),"
        " toDateTime64('2026-09-21 00:00:00', 3, 'UTC'), '', 1, 0, number, sipHash64(number), toUInt32(number), number, 1,"
        f" bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), number)) FROM numbers({rows})"
    )
    client.command("SYSTEM START MERGES usage_events")
    client.command("OPTIMIZE TABLE usage_events FINAL")  # the first merge makes the projections
    read_rows: list[int] = []
    asked = client.query

    def noting(*arguments: Any, **named: Any) -> Any:
        result = asked(*arguments, **named)
        read_rows.append(int(result.summary["read_rows"]))
        return result

    monkeypatch.setattr(client, "query", noting)
    found = event_log.recompute(client, 1, 0, rows - 1_000, rows)
    assert (found.events, len(found.lines)) == (1_000, 1_000)
    assert found.hash_sum == sum(range(rows - 1_000, rows))
    assert read_rows[0] <= 1_000 + 2 * 8_192, "whole granules, of which the first holds earlier rows"
    # In stretches it is the same.
    monkeypatch.setattr(event_log, "STRETCH_OFFSETS", 300)
    assert event_log.recompute(client, 1, 0, rows - 1_000, rows) == found
    index = CommittedIndex()
    monkeypatch.setattr(event_log, "STRETCH_OFFSETS", 150_000)
    assert event_log.held_below(client, 1, 0, rows, index.add).admitted == len(index) == rows


def test_rejects_keep_raw_bytes_and_headers_and_collapse_by_position(client: Client) -> None:
    work = decided(0, [b"\xff\x00{", None])
    for _ in range(2):
        insert(client, work)
    rows = client.query(
        "SELECT kafka_offset, verdict, reason, raw_value FROM usage_rejects FINAL ORDER BY kafka_offset",
        query_formats={"String": "bytes"},
    ).result_rows
    assert [(row[0], bytes(row[3])) for row in rows] == [(0, b"\xff\x00{"), (1, b"")]
