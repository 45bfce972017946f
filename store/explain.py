"""Where is my event: everything that the stores say of one dedup key.

Read in an order that lets absence mean something: the log's end, the fences, then ClickHouse. What is not in ClickHouse
below a fence was not in the log below it, for rows are durable before their fence moves; and where the fence had reached
the log's end, the log did not hold the event when it was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from clickhouse_connect.driver.client import Client
from psycopg import Connection

from metering.pseudonyms import Pseudonyms, key_id_of
from meterline_schemas.instants import format_instant, utc_day
from meterline_schemas.key import dedup_key, key_hash, partition_of
from meterline_schemas.quantity import format_quantity
from store import rejects
from store.delta_log import DeltaRange
from store.epochs import Epoch, all_epochs
from store.fences import positions, read_fences
from store.freshness import covered_until
from store.positions import Position
from store.rejects import Reject

ROWS_MAX = 10
"""More than one admitted row of a key breaks I2; some are shown."""

EXPORTS_MAX = 50


@dataclass(frozen=True)
class AdmittedRow:
    """A row of usage_events."""

    position: Position
    tenant_id: str
    quantity: int
    kind: str
    occurred_ms: int
    ingested_ms: int
    metadata_bytes: int
    rules_version: int
    counted: bool
    forgotten: bool = False

    @property
    def day(self) -> str:
        return utc_day(self.occurred_ms)

    def as_json(self) -> dict[str, Any]:
        return {
            "position": str(self.position),
            "tenant_id": self.tenant_id,
            "quantity": format_quantity(self.quantity),
            "kind": self.kind,
            "occurred_at": format_instant(self.occurred_ms),
            "ingested_at": format_instant(self.ingested_ms),
            "metadata_bytes": self.metadata_bytes,
            "rules_version": self.rules_version,
            "counted": self.counted,
            "forgotten": self.forgotten,
        }


@dataclass(frozen=True)
class CounterLine:
    """The counter that the row belongs to, as it stands."""

    tenant_id: str
    usage_type: str
    day: str
    quantity: str
    events: int

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class ExportLine:
    """A revision of the export that the row belongs to. `holds_event`: the row lies below the positions of its total."""

    account: str
    meter: str
    period_start: str
    period_end: str
    revision: int
    state: str
    reason: str | None
    total: str
    value: int
    holds_event: bool

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Lane:
    """The partition that the key leads to. `log_end` is None when Kafka did not answer."""

    epoch: int
    partition: int
    next_offset: int
    log_end: int | None
    earlier: int = 0
    """Records of ended epochs' topics that are not counted, or not forwarded to this epoch; it may be one of them."""

    @property
    def waiting(self) -> int | None:
        """Records that are not counted yet."""
        return None if self.log_end is None else max(0, self.log_end - self.next_offset)

    def as_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "partition": self.partition,
            "next_offset": self.next_offset,
            "log_end": self.log_end,
            "waiting": self.waiting,
            "earlier": self.earlier,
        }


@dataclass(frozen=True)
class Explanation:
    """What is known of a key. `as_of` is the newest time that the counters are known to cover."""

    source_service: str
    source_entity_id: str
    usage_type: str
    key: bytes
    lane: Lane
    as_of: datetime | None
    rows: tuple[AdmittedRow, ...]
    rejects: tuple[Reject, ...]
    delta: DeltaRange | None
    counter: CounterLine | None
    exports: tuple[ExportLine, ...]

    @property
    def known(self) -> bool:
        return bool(self.rows or self.rejects)

    @property
    def verdict(self) -> str:
        """In one sentence, what became of the event."""
        if len(self.rows) > 1:
            return f"admitted {len(self.rows)} times, which must never be (I2): run `meterline reconcile`"
        if self.rows:
            row = self.rows[0]
            past = ", and forgotten since" if row.forgotten else ""
            if row.counted:
                return f"admitted at {row.position} and counted{past}"
            if row.position.epoch != self.lane.epoch:
                return f"admitted at {row.position}; not counted yet: epoch {row.position.epoch} is not counted to its end"
            return f"admitted at {row.position}; not counted yet: the fence stands at {self.lane.next_offset}"
        if self.rejects:
            last = self.rejects[-1]
            return f"not admitted: {last.verdict} at {last.position} ({last.reason})"
        return self._absence()

    def _absence(self) -> str:
        lane = self.lane
        where = f"epoch {lane.epoch} partition {lane.partition}, where its key leads to"
        if lane.earlier:
            return (
                f"unknown so far: not among what was counted; {lane.earlier} records of an earlier epoch's topic are still to be "
                "counted or forwarded, and it may be one of them"
            )
        if lane.waiting is None:
            return f"unknown: not among what was counted below {lane.next_offset} of {where}; Kafka did not say what waits there"
        if lane.waiting:
            return (
                f"unknown so far: not among what was counted below {lane.next_offset} of {where}; {lane.waiting} records there "
                "are still to be counted, and it may be one of them"
            )
        return (
            f"unknown: everything in {where} is counted, up to {lane.next_offset}, and it is not among it. It never reached the "
            "log: look at the sender (was it acknowledged, or does it wait in a spool?) and at how the three names are spelt"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "known": self.known,
            "verdict": self.verdict,
            "source_service": self.source_service,
            "source_entity_id": self.source_entity_id,
            "usage_type": self.usage_type,
            "key": self.key.decode(),
            "partition": self.lane.as_json(),
            "as_of": None if self.as_of is None else self.as_of.isoformat().replace("+00:00", "Z"),
            "admitted": [row.as_json() for row in self.rows],
            "rejects": [reject.as_json() for reject in self.rejects],
            "delta": None if self.delta is None else self.delta.as_json(),
            "counter": None if self.counter is None else self.counter.as_json(),
            "exports": [line.as_json() for line in self.exports],
        }


def current_lane(epochs: list[Epoch], key: bytes) -> tuple[Epoch, int]:
    """The epoch that goes on, and the key's partition in it. Raises LookupError before there is an epoch."""
    if not epochs:
        raise LookupError("no epoch is recorded: run `meterline topics apply` first")
    return epochs[-1], partition_of(key, epochs[-1].partitions)


def explain(
    connection: Connection[Any],
    client: Client,
    source_service: str,
    source_entity_id: str,
    usage_type: str,
    log_ends: Mapping[int, int],
    range_of: Callable[[Position], DeltaRange | None],
    pseudonyms: Pseudonyms | None,
    earlier: int = 0,
) -> Explanation:
    """What is known of the key. `log_ends` are those of the epoch that goes on, read before this is called; may be empty.

    `earlier` is what waits in the topics of ended epochs, read before them (`store.epoch_lives.waiting`).
    `range_of` finds the range that announced a row (`store.delta_log`); None from it is "not announced, or gone by age".
    With `pseudonyms` a forgotten event is found too, by whoever still knows its names.

    Raises UnicodeEncodeError for names that no record can hold, LookupError before there is an epoch, psycopg.Error, and
    what an absent ClickHouse raises.
    """
    key = dedup_key(source_service, source_entity_id, usage_type)
    epoch, partition = current_lane(all_epochs(connection), key)
    as_of, _ = covered_until(connection)
    fences = positions(read_fences(connection))
    at = fences.get((epoch.epoch, partition), epoch.starts[partition])
    lane = Lane(epoch.epoch, partition, at, log_ends.get(partition), earlier)
    rows = _rows(client, key_hash(key), source_service, source_entity_id, usage_type, fences)
    if not rows and pseudonyms is not None:
        rows = _rows(client, key_hash(key), source_service, pseudonyms.of_entity(key), usage_type, fences)
    turned_away = rejects.of_key(client, key, source_service, source_entity_id, usage_type)
    counter = _counter(connection, rows[0], usage_type) if rows else None
    exports = _exports(connection, rows[0], usage_type) if rows else ()
    delta = range_of(rows[0].position) if rows else None
    return Explanation(
        source_service, source_entity_id, usage_type, key, lane, as_of, rows, tuple(turned_away), delta, counter, exports
    )


def _rows(
    client: Client, hashed: int, service: str, entity: str, usage_type: str, fences: Mapping[tuple[int, int], int]
) -> tuple[AdmittedRow, ...]:
    """The admitted rows of the key. The first statement finds the tenant by hash, the second the row by its sort key."""
    names = {"s": service, "i": entity, "t": usage_type}
    tenants = client.query(
        "SELECT DISTINCT tenant_id FROM usage_events WHERE key_hash = {h:UInt64} AND source_service = {s:String}"
        f" AND source_entity_id = {{i:String}} AND usage_type = {{t:String}} LIMIT {ROWS_MAX}",
        parameters=names | {"h": hashed},
    )
    found = []
    forgotten = key_id_of(entity) is not None and key_hash(dedup_key(service, entity, usage_type)) != hashed
    for (tenant,) in tenants.result_rows:
        result = client.query(
            "SELECT log_epoch, kafka_partition, kafka_offset, reinterpretAsInt64(quantity), kind,"
            " toUnixTimestamp64Milli(occurred_at), toUnixTimestamp64Milli(ingested_at), length(metadata), rules_version"
            " FROM usage_events WHERE tenant_id = {a:String} AND usage_type = {t:String} AND source_service = {s:String}"
            " AND source_entity_id = {i:String} ORDER BY log_epoch, kafka_offset, kafka_partition"
            f" LIMIT 1 BY log_epoch, kafka_partition, kafka_offset LIMIT {ROWS_MAX}",
            parameters=names | {"a": tenant},
        )
        for epoch, partition, offset, micros, kind, occurred_ms, ingested_ms, size, version in result.result_rows:
            counted = offset < fences.get((epoch, partition), 0)
            at = Position(epoch, partition, offset)
            found.append(AdmittedRow(at, tenant, micros, kind, occurred_ms, ingested_ms, size, version, counted, forgotten))
    return tuple(sorted(found, key=lambda row: (row.position.epoch, row.position.offset, row.position.partition)))


def _counter(connection: Connection[Any], row: AdmittedRow, usage_type: str) -> CounterLine | None:
    found = connection.execute(
        "SELECT trim_scale(quantity)::text, events FROM usage_counters WHERE tenant_id = %s AND usage_type = %s AND day = %s",
        (row.tenant_id, usage_type, date.fromisoformat(row.day)),
    ).fetchone()
    return None if found is None else CounterLine(row.tenant_id, usage_type, row.day, found[0], found[1])


def _exports(connection: Connection[Any], row: AdmittedRow, usage_type: str) -> tuple[ExportLine, ...]:
    """The revisions of the tenant's period that holds the row's day, of the meter that its type goes to."""
    rows = connection.execute(
        "SELECT account, meter, period_start, period_end, revision, state, reason, exact_total, value, positions"
        " FROM export_ledger l WHERE tenant_id = %(tenant)s AND period_start <= %(day)s AND %(day)s < period_end"
        # The mapping that the period was planned with, else the one of today.
        " AND coalesce((SELECT %(type)s = ANY (m.usage_types) FROM export_mappings m WHERE m.account = l.account"
        "   AND m.livemode = l.livemode AND m.meter = l.meter AND m.period_start = l.period_start),"
        "  l.meter = (SELECT u.meter FROM usage_types u WHERE u.usage_type = %(type)s))"
        f" ORDER BY period_start, meter, revision DESC LIMIT {EXPORTS_MAX}",
        {"tenant": row.tenant_id, "day": date.fromisoformat(row.day), "type": usage_type},
    )
    at = row.position
    return tuple(
        ExportLine(
            account, meter, start.isoformat(), end.isoformat(), revision, state, reason, _plain(total), value,
            at.offset < int(vector.get(f"{at.epoch}:{at.partition}", 0)),
        )
        for account, meter, start, end, revision, state, reason, total, value, vector in rows
    )  # fmt: skip


def _plain(total: Decimal) -> str:
    text = f"{total:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def outcome(connection: Connection[Any], client: Client, at: Position) -> str:
    """The verdict of the record at a position, as far as it is known now."""
    fences = positions(read_fences(connection))
    where = "log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset = {o:UInt64}"
    parameters = {"e": at.epoch, "p": at.partition, "o": at.offset}
    admitted = client.query(f"SELECT kafka_offset FROM usage_events WHERE {where} LIMIT 1", parameters=parameters)
    counted = at.offset < fences.get((at.epoch, at.partition), 0)
    if admitted.result_rows:
        return "admitted and counted" if counted else "admitted"
    turned_away = client.query(f"SELECT verdict, reason FROM usage_rejects WHERE {where} LIMIT 1", parameters=parameters)
    if turned_away.result_rows:
        verdict, reason = turned_away.result_rows[0]
        return f"{verdict} ({reason})"
    return "duplicate" if counted else "not decided yet"
