"""`usage_events` and `usage_rejects`: the one insert of a cycle, and every read by position or key.

An insert may be repeated with the same rows at any time: copies are identical and collapse. Reads by position take one
row an offset, so that copies that have not collapsed yet are not counted; FINAL is not needed.
Every function raises clickhouse_connect's `ClickHouseError` family when the server refuses or is away.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from numpy.typing import NDArray

from metering import texts
from metering.columns import TEXT_TYPES
from metering.index import Hashes
from metering.ranges import Claim, Decided, Reject
from meterline_schemas.delta import DeltaLine, Figures
from meterline_schemas.types import Micros, TenantId, UsageType

CONFIRM_HASHES_MAX = 20_000
"""Of one statement. What it costs is in reading the table's blocks, whether one row of a block is wanted or ten."""
_LONG_STATEMENT = {"max_query_size": 32 * CONFIRM_HASHES_MAX}
_BEFORE_CORRECTS = ("log_epoch", "kafka_partition", "kafka_offset", "tenant_id", "micros", "kind")
_BEHIND_CORRECTS = ("row_hash", "key_hash")
_CONFIRM = (
    "SELECT concat(toString(length(source_service)), ':', source_service, ',',"
    " toString(length(source_entity_id)), ':', source_entity_id, ',', toString(length(usage_type)), ':', usage_type, ',') AS key,"
    " log_epoch, kafka_partition, kafka_offset, tenant_id, reinterpretAsInt64(quantity) AS micros, kind, corrects, row_hash,"
    " key_hash FROM usage_events WHERE key_hash IN (%s) ORDER BY log_epoch DESC, kafka_offset DESC"
)
"""The key as netstrings, as `meterline_schemas.key` writes it."""

STRETCH_OFFSETS = 2_000_000
"""Offsets of one statement that sorts them: some hundred MB of ClickHouse's memory."""

_MAX64 = (1 << 64) - 1

_INSTANT = pa.timestamp("ms", tz="UTC")

_EVENTS = pa.schema(
    [
        ("tenant_id", pa.string()),
        ("usage_type", pa.string()),
        ("source_service", pa.string()),
        ("source_entity_id", pa.string()),
        ("quantity", pa.decimal128(18, 6)),
        ("kind", pa.string()),
        ("corrects", pa.binary()),
        ("occurred_at", _INSTANT),
        ("ingested_at", _INSTANT),
        ("metadata", pa.binary()),
        ("log_epoch", pa.uint16()),
        ("kafka_partition", pa.uint32()),
        ("kafka_offset", pa.uint64()),
        ("key_hash", pa.uint64()),
        ("key_murmur2", pa.uint32()),
        ("row_hash", pa.uint64()),
        ("rules_version", pa.uint16()),
        ("row_version", pa.uint64()),
    ]
)
_REJECTS = pa.schema(
    [
        ("log_epoch", pa.uint16()),
        ("kafka_partition", pa.uint32()),
        ("kafka_offset", pa.uint64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("tenant_id", pa.string()),
        ("source_service", pa.string()),
        ("source_entity_id", pa.string()),
        ("usage_type", pa.string()),
        ("ingested_at", _INSTANT),
        ("raw_key", pa.binary()),
        ("raw_value", pa.binary()),
        ("headers", pa.list_(pa.struct([("1", pa.binary()), ("2", pa.binary())]))),
        ("row_hash", pa.uint64()),
        ("admitted_epoch", pa.uint16()),
        ("admitted_partition", pa.uint32()),
        ("admitted_offset", pa.uint64()),
        ("rules_version", pa.uint16()),
    ]
)


def _decimals(micros: NDArray[np.int64]) -> pa.Array:
    """Millionths to Decimal(18,6) without a Decimal object each: the stored integer is the millionths."""
    words = np.empty((len(micros), 2), dtype=np.int64)
    words[:, 0] = micros
    words[:, 1] = micros >> 63
    return pa.Array.from_buffers(pa.decimal128(18, 6), len(micros), [None, pa.py_buffer(words)])


def _milliseconds(at_ms: NDArray[np.int64]) -> pa.Array:
    return pa.array(at_ms).cast(_INSTANT)


def admitted_rows(cycle: Iterable[Decided]) -> pa.Table:
    """The rows of a cycle as the table wants them; the schema is enforced here, for the server would fill in defaults."""
    return pa.Table.from_batches([_admitted(decided) for decided in cycle if len(decided.admitted)], _EVENTS)


def _admitted(decided: Decided) -> pa.RecordBatch:
    span, events = decided.span, decided.admitted
    size, positions = len(events), events.offset.astype(np.uint64)

    def text(name: str) -> pa.Array:
        return texts.arrow(getattr(events, name), TEXT_TYPES[name])

    versions = ~(np.uint64(span.epoch << 48) | positions)
    columns = [
        text("tenant_id"),
        text("usage_type"),
        text("source_service"),
        text("source_entity_id"),
        _decimals(events.micros),
        text("kind"),
        text("corrects"),
        _milliseconds(events.occurred_ms),
        _milliseconds(events.ingested_ms),
        text("metadata"),
        pa.repeat(pa.scalar(span.epoch, pa.uint16()), size),
        pa.repeat(pa.scalar(span.partition, pa.uint32()), size),
        pa.array(positions),
        pa.array(events.key_hash),
        pa.array(events.key_murmur2),
        pa.array(events.row_hash),
        pa.repeat(pa.scalar(decided.rules_version, pa.uint16()), size),
        pa.array(versions),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_EVENTS)


def reject_rows(cycle: Iterable[Decided]) -> pa.Table:
    """The dead letters of a cycle, raw bytes and headers included."""

    def row(decided: Decided, reject: Reject) -> dict[str, object]:
        record, event, claim = reject.reading.record, reject.reading.event, reject.admitted
        return {
            "log_epoch": decided.span.epoch,
            "kafka_partition": decided.span.partition,
            "kafka_offset": record.offset,
            "verdict": reject.verdict,
            "reason": str(reject.reason),
            "detail": reject.detail,
            "tenant_id": event.tenant_id,
            "source_service": event.source_service,
            "source_entity_id": event.source_entity_id,
            "usage_type": event.usage_type,
            "ingested_at": record.timestamp_ms,
            "raw_key": record.key or b"",
            "raw_value": record.value or b"",
            "headers": [{"1": name.encode(errors="surrogateescape"), "2": value} for name, value in record.headers],
            "row_hash": reject.reading.row_hash,
            "admitted_epoch": claim.epoch if claim else 0,
            "admitted_partition": claim.partition if claim else 0,
            "admitted_offset": claim.offset if claim else 0,
            "rules_version": decided.rules_version,
        }

    rows = [row(decided, reject) for decided in cycle for reject in decided.rejects]
    return pa.Table.from_pylist(rows, schema=_REJECTS)


def insert(client: Client, admitted: pa.Table, rejects: pa.Table, midway: Callable[[], None] | None = None) -> None:
    """Stores a cycle; returns when both are acknowledged as written. To be repeated as it is after any failure.

    `midway` is called within each of the two inserts, when half of its bytes have left.
    """
    for table, rows in (("usage_events", admitted), ("usage_rejects", rejects)):
        if not rows.num_rows:
            continue
        if midway is None:
            client.insert_arrow(table, rows)
        else:
            _insert_in_halves(client, table, rows, midway)


def _insert_in_halves(client: Client, table: str, rows: pa.Table, midway: Callable[[], None]) -> None:
    sink = pa.BufferOutputStream()
    with pa.RecordBatchFileWriter(sink, rows.schema) as writer:
        writer.write(rows)
    body = bytes(sink.getvalue())

    def halves() -> Generator[bytes, None, None]:
        yield body[: len(body) // 2]
        midway()
        yield body[len(body) // 2 :]

    # Its length is stated, so that the server waits for the second half instead of for an end.
    length = {"Content-Length": str(len(body))}
    client.raw_insert(table, rows.schema.names, halves(), fmt="Arrow", transport_settings=length)


def confirm(client: Client, hashes: Hashes) -> dict[bytes, Claim]:
    """The admitted rows of these key hashes by full key, each at its smallest position."""
    claims: dict[bytes, Claim] = {}
    for start in range(0, len(hashes), CONFIRM_HASHES_MAX):
        wanted = ",".join(map(str, hashes[start : start + CONFIRM_HASHES_MAX].tolist()))
        found = client.query_arrow(_CONFIRM % wanted, settings=_LONG_STATEMENT)
        keys = found.column("key").cast(pa.binary()).to_pylist()
        corrects = found.column("corrects").cast(pa.binary()).to_pylist()
        before, behind = ([found.column(name).to_pylist() for name in names] for names in (_BEFORE_CORRECTS, _BEHIND_CORRECTS))
        # Of two rows of a key the later comes first, and is replaced.
        claims |= zip(keys, map(Claim._make, zip(*before, corrects, *behind, strict=True)), strict=True)
    return claims


@dataclass(frozen=True)
class Held:
    """What ClickHouse holds of one partition below a position."""

    admitted: int
    hash_sum: int

    def matches(self, figures: Figures) -> bool:
        """Whether it is exactly what was committed there."""
        return self.admitted == figures.admitted and self.hash_sum == figures.hash_sum


@dataclass(frozen=True)
class Keys:
    """Of some admitted rows: the keys by their two hashes, and what the rows say together."""

    hashes: Hashes
    murmurs: NDArray[np.uint32]
    row_hashes: Hashes


def keys_between(client: Client, epoch: int, partition: int, from_offset: int, to_offset: int) -> Iterator[Keys]:
    """The keys of [from, to), one row an offset, a stretch at a time. What a stretch says of its rows is of the same read.

    While the caller works on one stretch, the next is being read: the client is in use until the iterator has ended.
    """

    def stretch(lowest: int) -> Keys:
        found = client.query_arrow(
            "SELECT key_hash, key_murmur2, row_hash FROM usage_events"
            " WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset >= {f:UInt64}"
            " AND kafka_offset < {t:UInt64} ORDER BY kafka_offset LIMIT 1 BY kafka_offset",
            parameters={"e": epoch, "p": partition, "f": lowest, "t": min(lowest + STRETCH_OFFSETS, to_offset)},
        )
        return Keys(*(found.column(name).to_numpy() for name in ("key_hash", "key_murmur2", "row_hash")))

    stretches = list(range(from_offset, to_offset, STRETCH_OFFSETS))
    with ThreadPoolExecutor(1, thread_name_prefix="stretches") as ahead:
        reading = [ahead.submit(stretch, lowest) for lowest in stretches[:1]]
        for lowest in stretches[1:]:
            keys = reading.pop().result()
            reading.append(ahead.submit(stretch, lowest))
            yield keys
        for last in reading:
            yield last.result()


def held_below(client: Client, epoch: int, partition: int, offset: int, add: Callable[[Hashes], object]) -> Held:
    """Hands the hashes of the admitted keys of a partition below `offset` to `add`, a stretch at a time.

    What it returns is of the same reads. On a failure some were handed over.
    """
    admitted = hash_sum = 0
    for keys in keys_between(client, epoch, partition, 0, offset):
        add(keys.hashes)
        admitted += len(keys.hashes)
        hash_sum += int(keys.row_hashes.sum(dtype=np.uint64))
    return Held(admitted, hash_sum & _MAX64)


def rows_between(client: Client, epoch: int, partition: int, from_offset: int, to_offset: int) -> tuple[int, int]:
    """(rows, sum of their hashes modulo 2**64) of [from, to), one row an offset. ClickHouse's memory is bounded by stretches."""
    count = hash_sum = 0
    for lowest in range(from_offset, to_offset, STRETCH_OFFSETS):
        result = client.query(
            "SELECT count(), sumWithOverflow(row_hash) FROM (SELECT row_hash FROM usage_events"
            " WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset >= {f:UInt64}"
            " AND kafka_offset < {t:UInt64} ORDER BY kafka_offset LIMIT 1 BY kafka_offset)",
            parameters={"e": epoch, "p": partition, "f": lowest, "t": min(lowest + STRETCH_OFFSETS, to_offset)},
        )
        ((rows, part),) = result.result_rows
        count += int(rows)
        hash_sum = (hash_sum + int(part)) & _MAX64
    return count, hash_sum


@dataclass(frozen=True)
class Recomputed:
    """What the admitted rows of [from, to) add, read back from ClickHouse."""

    lines: tuple[DeltaLine, ...]
    events: int
    hash_sum: int


def recompute(client: Client, epoch: int, partition: int, from_offset: int, to_offset: int) -> Recomputed:
    """The delta of a range from its rows, one row an offset. ClickHouse's memory is bounded by stretches."""
    sums: dict[tuple[TenantId, UsageType, str], tuple[int, int]] = {}
    events = hash_sum = 0
    for lowest in range(from_offset, to_offset, STRETCH_OFFSETS):
        result = client.query(
            "SELECT tenant_id, usage_type, toString(toDate(occurred_at, 'UTC')) AS day,"
            " toString(sum(toInt128(reinterpretAsInt64(quantity)))), count(), sumWithOverflow(row_hash)"
            " FROM (SELECT tenant_id, usage_type, quantity, occurred_at, row_hash FROM usage_events"
            "  WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset >= {f:UInt64}"
            "  AND kafka_offset < {t:UInt64} ORDER BY kafka_offset LIMIT 1 BY kafka_offset)"
            " GROUP BY tenant_id, usage_type, day",
            parameters={"e": epoch, "p": partition, "f": lowest, "t": min(lowest + STRETCH_OFFSETS, to_offset)},
        )
        for tenant, usage_type, day, micros, count, part in result.result_rows:
            quantity, counted = sums.get((tenant, usage_type, day), (0, 0))
            sums[tenant, usage_type, day] = quantity + int(micros), counted + count
            events += count
            hash_sum = (hash_sum + part) & _MAX64
    lines = tuple(DeltaLine(*key, Micros(quantity), count) for key, (quantity, count) in sorted(sums.items()))
    return Recomputed(lines, events, hash_sum)


Places = Mapping[tuple[int, int], int]
"""(epoch, partition) to a next offset; one that it lacks stands at its start, so nothing lies below it."""


def totals_below(client: Client, positions: Places, period_start: date, period_end: date, tenant_id: str) -> dict[str, Decimal]:
    """A tenant's total by usage type over [period_start, period_end), of rows below the positions only."""
    found = totals_of(client, [tenant_id], positions, period_start, period_end)
    return {usage_type: total for (_, usage_type), total in found.items()}


def totals_of(
    client: Client,
    tenants: Sequence[str],
    positions: Places,
    start: date,
    end: date,
    after: tuple[date, Places] | None = None,
) -> dict[tuple[str, str], Decimal]:
    """Totals by (tenant, usage type) over [start, end), of rows below the positions only.

    `after` is (day, positions) of a close: rows of days before it and below its positions are left out, for they are billed.
    """
    if not positions or not tenants:
        return {}
    billed = (
        "" if after is None else f" AND NOT (occurred_at < toDateTime64({{closed:Date}}, 3, 'UTC') AND {rows_below(after[1])})"
    )
    result = client.query(
        "SELECT tenant_id, usage_type, toString(sum(toInt128(reinterpretAsInt64(quantity))))"
        " FROM (SELECT tenant_id, usage_type, quantity FROM usage_events WHERE tenant_id IN {tenants:Array(String)}"
        "  AND occurred_at >= toDateTime64({start:Date}, 3, 'UTC') AND occurred_at < toDateTime64({end:Date}, 3, 'UTC')"
        f"  AND {rows_below(positions)}{billed} LIMIT 1 BY log_epoch, kafka_partition, kafka_offset)"
        " GROUP BY tenant_id, usage_type",
        parameters={"tenants": list(tenants), "start": start, "end": end} | ({} if after is None else {"closed": after[0]}),
    )
    return {(tenant, usage_type): Decimal(f"{int(micros)}E-6") for tenant, usage_type, micros in result.result_rows}


def rows_below(positions: Places) -> str:
    """The condition of ClickHouse that holds for rows below the positions."""
    places = " OR ".join(
        f"(log_epoch = {int(epoch)} AND kafka_partition = {int(partition)} AND kafka_offset < {int(offset)})"
        for (epoch, partition), offset in sorted(positions.items())
    )
    return f"({places or '0'})"
