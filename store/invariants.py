"""I1, I2 and I6: fences against the rows and rejects below them, and keys against each other.

Every function takes fences that were read before ClickHouse is asked, and asks only for what lies below them: a row is
durable before its fence moves, so nothing here is merely on its way. (I2 looks at all rows: two admitted rows of a key
are wrong wherever they stand.) ClickHouse's memory is bounded by taking the rows in stretches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client
from psycopg import Connection

from store.epochs import Epoch
from store.event_log import rows_between
from store.fences import Fence, positions
from store.findings import Check, partition_of_log
from store.forgetting import MARK
from store.positions import Position, below

STRETCH_KEYS = 2_000_000
"""Keys of one statement: some hundred MB of ClickHouse's memory."""

_HASHES_MAX = 5_000
_PLACE = "bitOr(bitShiftLeft(toUInt64(log_epoch), 48), kafka_offset)"
"""Epoch and offset as one number, which ClickHouse compares ten times as fast as a tuple."""

_WORDS = 1 << 64


def check_figures(client: Client, epochs: Sequence[Epoch], fences: Sequence[Fence]) -> Check:
    """I1: every offset below a fence has one verdict, and the admitted ones are the rows that ClickHouse holds there."""
    check = Check("I1")
    starts = {(epoch.epoch, p): start for epoch in epochs for p, start in enumerate(epoch.starts)}
    for epoch, partition in sorted(starts.keys() - {(fence.epoch, fence.partition) for fence in fences}):
        check.add("no fence row", partition_of_log(epoch, partition), "one fence a partition of its epoch", "none")
    for fence in fences:
        where = partition_of_log(fence.epoch, fence.partition)
        start = starts.get((fence.epoch, fence.partition))
        if start is None:
            check.add("a fence without its epoch", where, "a partition of a recorded epoch", f"next_offset {fence.next_offset}")
            continue
        check.checked += fence.next_offset - start
        if fence.figures.offsets != fence.next_offset - start:
            check.add("verdicts", where, f"{fence.next_offset - start} offsets", f"{fence.figures.offsets} verdicts")
        held, hash_sum = rows_between(client, fence.epoch, fence.partition, start, fence.next_offset)
        if held != fence.figures.admitted:
            check.add("admitted rows in ClickHouse", where, fence.figures.admitted, held)
        elif hash_sum != fence.figures.hash_sum:
            check.add("sum of row hashes in ClickHouse", where, fence.figures.hash_sum, hash_sum)
    for epoch, partition, count in _strangers(client, starts):
        check.add("rows of no known partition", partition_of_log(epoch, partition), 0, count)
    check.detail = f"{check.checked} offsets below {len(fences)} fences have one verdict each; the admitted ones are stored"
    if not check.ok:
        check.detail = f"figures and rows differ in {check.findings_count} places"
    return check


def _strangers(client: Client, starts: Mapping[tuple[int, int], int]) -> list[tuple[int, int, int]]:
    """Rows of partitions that no epoch has, or from before its start: another log's, in our table."""
    known = below(dict.fromkeys(starts, 1 << 48)) if starts else "0"
    early = " OR ".join(
        f"(log_epoch = {epoch} AND kafka_partition = {partition} AND kafka_offset < {start})"
        for (epoch, partition), start in sorted(starts.items())
        if start
    )
    result = client.query(
        "SELECT log_epoch, kafka_partition, count() FROM usage_events"
        f" WHERE NOT {known}{' OR ' + early if early else ''} GROUP BY log_epoch, kafka_partition ORDER BY ALL LIMIT 1000"
    )
    return [(int(epoch), int(partition), int(count)) for epoch, partition, count in result.result_rows]


def check_keys(client: Client, stretch_keys: int = STRETCH_KEYS) -> Check:
    """I2: no key has two admitted positions, and none was admitted after a record that was turned away for it."""
    check = Check("I2")
    ((rows,),) = client.query("SELECT count() FROM usage_events").result_rows
    check.checked = int(rows)
    slices = max(1, -(-check.checked // stretch_keys))
    for number in range(slices):
        lowest, highest = number * _WORDS // slices, (number + 1) * _WORDS // slices - 1
        suspected = client.query(
            "SELECT key_hash FROM usage_events WHERE key_hash >= {l:UInt64} AND key_hash <= {h:UInt64} GROUP BY key_hash"
            f" HAVING min({_PLACE}) != max({_PLACE}) OR min(kafka_partition) != max(kafka_partition)"
            " ORDER BY key_hash",
            parameters={"l": lowest, "h": highest},
        )
        hashes = [int(row[0]) for row in suspected.result_rows]
        for first in range(0, len(hashes), _HASHES_MAX):
            _confirm_keys(client, hashes[first : first + _HASHES_MAX], check)
    late = client.query(
        "SELECT log_epoch, kafka_partition, kafka_offset, verdict, admitted_epoch, admitted_partition, admitted_offset"
        " FROM usage_rejects FINAL WHERE verdict IN ('conflict', 'duplicate')"
        " AND (admitted_epoch, admitted_offset) >= (log_epoch, kafka_offset) ORDER BY 1, 2, 3 LIMIT 1000"
    )
    for epoch, partition, offset, verdict, *admitted in late.result_rows:
        position = Position(epoch, partition, offset)
        check.add("admitted later than it was refused", {"position": str(position)}, f"an admitted row before this {verdict}",
                  Position(*admitted))  # fmt: skip
    check.detail = f"{check.checked} rows looked at in {slices} slices of keys: one admitted position a key"
    if not check.ok:
        check.detail = f"{check.findings_count} keys were admitted more than once, or not at their first record"
    return check


def _confirm_keys(client: Client, hashes: list[int], check: Check) -> None:
    """Two keys may share a hash; only a whole key that stands in two places is wrong."""
    found = client.query(
        "SELECT source_service, source_entity_id, usage_type,"
        " arraySort(groupUniqArray(8)((log_epoch, kafka_offset, kafka_partition))) AS at"
        f" FROM usage_events WHERE key_hash IN ({','.join(map(str, hashes))})"
        " GROUP BY source_service, source_entity_id, usage_type HAVING length(at) > 1 ORDER BY ALL"
    )
    # A forgotten row stands under another name and the same hash: a second position of the hash is the key admitted again.
    again = client.query(
        "SELECT any(source_service), anyIf(source_entity_id, startsWith(source_entity_id, 'forgotten:')), any(usage_type),"
        " arraySort(groupUniqArray(8)((log_epoch, kafka_offset, kafka_partition))) AS at"
        f" FROM usage_events WHERE key_hash IN ({','.join(map(str, hashes))}) GROUP BY key_hash"
        " HAVING length(at) > 1 AND countIf(startsWith(source_entity_id, 'forgotten:')) > 0"
        " AND uniqExact(source_entity_id) > 1 ORDER BY ALL"
    )
    for service, entity, usage_type, at in [*found.result_rows, *again.result_rows]:
        where = {"source_service": service, "source_entity_id": entity, "usage_type": usage_type}
        stands = ", ".join(str(Position(epoch, partition, offset)) for epoch, offset, partition in at)
        check.add("a key with several admitted rows", where, "one position", stands)


def check_rejects(
    client: Client, epochs: Mapping[int, datetime], fences: Sequence[Fence], keep_days: int, now: datetime
) -> Check:
    """I6: every invalid record and conflict below the fences is kept, with the bytes that it had.

    `epochs` are the epochs' beginnings: in one that is older than the retention, rejects may have been dropped by age,
    and only too many of them can be told.
    """
    check = Check("I6")
    condition = below(positions(fences))
    counted = client.query(
        "SELECT log_epoch, kafka_partition, countIf(verdict = 'invalid'), countIf(verdict = 'conflict'),"
        f" countIf(verdict = 'duplicate') FROM usage_rejects FINAL WHERE {condition} GROUP BY log_epoch, kafka_partition"
    )
    kept = {(int(e), int(p)): (int(i), int(c), int(d)) for e, p, i, c, d in counted.result_rows}
    aged = 0
    for fence in fences:
        invalid, conflict, duplicate = kept.get((fence.epoch, fence.partition), (0, 0, 0))
        check.checked += invalid + conflict + duplicate
        may_be_gone = keep_days > 0 and now - epochs[fence.epoch] >= timedelta(days=keep_days)
        aged += may_be_gone
        where = partition_of_log(fence.epoch, fence.partition)
        for verdict, found, expected in (
            ("invalid", invalid, fence.figures.invalid),
            ("conflict", conflict, fence.figures.conflict),
        ):
            if found > expected or (found < expected and not may_be_gone):
                check.add(f"rejects with verdict {verdict}", where, expected, found)
        if duplicate > fence.figures.duplicate:
            check.add("differing duplicates", where, f"at most {fence.figures.duplicate}", duplicate)
    changed = client.query(
        "SELECT DISTINCT log_epoch, kafka_partition, kafka_offset, reason, length(raw_value) FROM usage_rejects"
        # What was forgotten has no bytes any more, and says so.
        f" WHERE xxh3(raw_value) != row_hash AND NOT (empty(raw_value) AND detail = '{MARK}')"
        f" AND {condition} ORDER BY 1, 2, 3 LIMIT 1000"
    )
    for epoch, partition, offset, reason, length in changed.result_rows:
        where = {"position": str(Position(epoch, partition, offset)), "reason": reason}
        check.add("raw bytes", where, "the record's own bytes", f"{length} other bytes")
    check.detail = f"{check.checked} rejects are kept with their bytes, as many as the figures say"
    if aged:
        check.detail += f"; in {aged} partitions older than METERLINE_REJECTS_KEEP_DAYS ({keep_days}) some may be gone by age"
    if not check.ok:
        check.detail = f"rejects and figures differ in {check.findings_count} places"
    return check


def epoch_beginnings(connection: Connection[Any]) -> dict[int, datetime]:
    """When each epoch began."""
    return {int(epoch): created for epoch, created in connection.execute("SELECT epoch, created_at FROM epochs")}
