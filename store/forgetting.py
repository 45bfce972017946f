"""Forgetting somebody: ids become pseudonyms, metadata and raw bytes go, and no number changes.

What stays is what dedup and totals are made of: hashes, positions, quantities, times, usage types. A forgotten row keeps its
key_hash, so an event that is sent again still finds it, and is compared by pseudonym.

1. Register who, by pseudonym, in both stores: a run that was cut is repeated from here.
2. Lock every fence, so that nobody counts meanwhile; forget rows below exactly these fences.
3. In ClickHouse write each row again under its pseudonyms, see that every one is there, then delete the plain ones. The id
   is part of the table's sort key, so a row cannot be changed in place; and between the two a row stands twice at one
   position, which no read by position counts twice.
4. In Postgres replace the ids in counters and wherever else they stand, note it, commit.

Statements name nobody: the server keeps the text of mutations and may keep that of queries.

Rows come back with a restored backup, or by a consumer that was halted in the middle of an insert for so long that its range
was forgotten meanwhile. `again` forgets them for good; reconcile tells of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.client import Client
from psycopg import Connection

from metering.pseudonyms import Kind, Pseudonyms, key_id_of
from meterline_schemas.key import dedup_key
from runtime.settings import Settings
from store import audit, forgetting_ids, forgotten
from store.fences import lock_fences, positions, read_fences
from store.forgotten import Positions, Subject
from store.positions import Position, below

BATCH_ROWS = 50_000
POSITIONS_MAX = 2_000
MARK = "forgotten"
"""In `detail` of a reject whose bytes were cleared."""

_EVENT = (
    "toString(usage_type) AS usage_type, toString(source_service) AS source_service, source_entity_id, quantity,"
    " toString(kind) AS kind, corrects, occurred_at, ingested_at, '' AS metadata, log_epoch, kafka_partition, kafka_offset,"
    " key_hash, key_murmur2, row_hash, rules_version, row_version"
)
_REJECT = (
    "log_epoch, kafka_partition, kafka_offset, toString(verdict) AS verdict, toString(reason) AS reason, 'forgotten' AS detail,"
    " tenant_id, source_service, source_entity_id, usage_type, ingested_at, '' AS raw_key, '' AS raw_value,"
    " CAST([], 'Array(Tuple(String, String))') AS headers, row_hash, admitted_epoch, admitted_partition, admitted_offset,"
    " rules_version"
)
_AT = "log_epoch, kafka_partition, kafka_offset"
_WAIT = {"mutations_sync": 2}


@dataclass
class Forgotten:
    """What there was of somebody, or what was done about it."""

    kind: Kind
    pseudonym: str
    events: int = 0
    rejects: int = 0
    postgres: dict[str, int] = field(default_factory=dict)
    left: int = 0
    """Rows above the fences, and events in the outbox: forgotten by a later run."""
    kafka_until: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "pseudonym": self.pseudonym,
            "events": self.events,
            "rejects": self.rejects,
            "postgres": self.postgres,
            "left": self.left,
            "kafka_until": None if self.kafka_until is None else self.kafka_until.isoformat(timespec="seconds"),
        }


@dataclass(frozen=True)
class Somebody:
    """Whom to forget: an id that is known, or (`again`) only by the pseudonym that it had."""

    kind: Kind
    subject: str
    user_field: str

    @property
    def condition(self) -> str:
        """Of the plain rows in usage_events."""
        digest = hashlib.sha256(self.subject.encode()).hexdigest()
        field_sql = "tenant_id" if self.kind == "tenant" else f"JSONExtractString(metadata, {_quoted(self.user_field)})"
        return f"(SHA256({field_sql}) = unhex('{digest}'))"

    def is_in(self, tenant_id: str, raw: bytes) -> bool:
        """Whether a reject is about them: by what was read of it, or by its bytes where nothing could be read."""
        if self.kind == "tenant" and tenant_id:
            return tenant_id == self.subject
        try:
            document = json.loads(raw)
            metadata = document.get("metadata") if isinstance(document, dict) else None
            if self.kind == "user" and isinstance(metadata, dict):
                return bool(metadata.get(self.user_field) == self.subject)
        except (ValueError, RecursionError):
            pass
        return any(json.dumps(self.subject, ensure_ascii=ascii_only).encode() in raw for ascii_only in (True, False))


def look(
    settings: Settings, connection: Connection[Any], client: Client, somebody: Somebody, pseudonyms: Pseudonyms
) -> Forgotten:
    """What there is of somebody. Changes nothing."""
    fences = positions(read_fences(connection))
    found = Forgotten(somebody.kind, pseudonyms.of(somebody.kind, somebody.subject))
    found.events = _count(client, f"{somebody.condition} AND {below(fences)}")
    found.left = _count(client, somebody.condition) - found.events
    found.rejects = len(_rejects(client, somebody, fences))
    found.postgres = forgetting_ids.count(connection, somebody.kind, somebody.subject)
    found.kafka_until = kafka_until(settings)
    return found


def kafka_until(settings: Settings) -> datetime:
    """When the log has dropped everything that it holds now: a segment goes whole, once its newest record is old enough."""
    return datetime.now(UTC) + timedelta(days=settings.events_keep_days + SEGMENT_DAYS)


SEGMENT_DAYS = 7
"""Kafka closes a segment after a week by default (segment.ms), and counts its age from its newest record."""


def forget(
    settings: Settings, connection: Connection[Any], client: Client, somebody: Somebody, pseudonyms: Pseudonyms, who: str
) -> Forgotten:
    """Forgets somebody for good. Commits. Raises what the stores raise; to be repeated then."""
    until = kafka_until(settings)
    report = Forgotten(somebody.kind, pseudonyms.of(somebody.kind, somebody.subject), kafka_until=until)
    # 1.
    subject = Subject(somebody.kind, report.pseudonym, dict(positions(read_fences(connection))))
    forgotten.note(connection, client, subject, who, until)
    connection.commit()
    # 2.
    fences = lock_fences(connection, [(fence.epoch, fence.partition) for fence in read_fences(connection)])
    reached = positions(fences.values())
    # 3.
    report.events = rewrite_events(client, somebody.condition, reached, somebody, pseudonyms)
    at = _rejects(client, somebody, reached)
    report.rejects = clear_rejects(client, at, somebody, pseudonyms)
    report.left = _count(client, somebody.condition)
    # 4.
    report.postgres = forgetting_ids.replace(connection, somebody.kind, somebody.subject, pseudonyms)
    replays = forgetting_ids.replays_of(connection, at, pseudonyms)
    dropped, waiting = forgetting_ids.boxes(connection, somebody.subject)
    report.postgres |= {name: rows for name, rows in (("replays", replays), ("boxes", dropped)) if rows}
    report.left += waiting
    forgotten.note(connection, client, Subject(somebody.kind, report.pseudonym, dict(reached)), who, until)
    forgotten.done(connection, subject)
    audit.record(connection, who, [audit.Entry(f"{somebody.kind}.forgotten", report.pseudonym, None, report.as_json())])
    connection.commit()
    return report


def came_back(client: Client, subjects: Iterable[Subject], pseudonyms: Pseudonyms, user_field: str) -> Iterator[Somebody]:
    """Everybody in the register of whom plain rows stand below their positions."""
    by_pseudonym = {(subject.kind, subject.pseudonym): subject for subject in subjects}
    for kind, column in (("tenant", "tenant_id"), ("user", f"JSONExtractString(metadata, {_quoted(user_field)})")):
        of_kind = [subject for subject in by_pseudonym.values() if subject.kind == kind]
        if not of_kind:
            continue
        furthest: dict[tuple[int, int], int] = {}
        for subject in of_kind:
            for place, offset in subject.positions.items():
                furthest[place] = max(offset, furthest.get(place, 0))
        with client.query_rows_stream(
            f"SELECT DISTINCT {column} AS name FROM usage_events WHERE {below(furthest)} AND name != ''"
            " AND NOT startsWith(name, 'forgotten:')"
        ) as names:
            for (name,) in names:
                known = by_pseudonym.get((kind, pseudonyms.of(kind, name)))  # type: ignore[arg-type]  # a literal of the loop
                if known is None:
                    continue
                somebody = Somebody(known.kind, name, user_field)
                if _count(client, f"{somebody.condition} AND {below(known.positions)}"):
                    yield somebody


def rewrite_events(client: Client, condition: str, reached: Positions, somebody: Somebody, pseudonyms: Pseudonyms) -> int:
    """Writes the rows again under their pseudonyms, then deletes the plain ones; returns how many there were."""
    plain = f"{condition} AND {below(reached)}"
    after, rows = Position(0, 0, 0), 0
    while True:
        batch = client.query_arrow(
            # Within, or the condition would look at what stands in place of the columns.
            f"SELECT tenant_id, {_EVENT} FROM (SELECT * FROM usage_events WHERE {plain}"
            f" AND ({_AT}) > ({after.epoch}, {after.partition}, {after.offset})"
            f" ORDER BY {_AT} LIMIT 1 BY {_AT} LIMIT {BATCH_ROWS}) ORDER BY {_AT}",
            use_strings=True,
        )
        if batch.num_rows == 0:
            break
        client.insert_arrow("usage_events", _renamed(batch, somebody, pseudonyms))
        rows += batch.num_rows
        after = Position(*(batch.column(name)[-1].as_py() for name in ("log_epoch", "kafka_partition", "kafka_offset")))
    if rows:
        missing = _count(
            client,
            f"{plain} AND ({_AT}) NOT IN (SELECT {_AT} FROM usage_events WHERE startsWith(source_entity_id, 'forgotten:'))",
        )
        if missing:
            raise RuntimeError(f"{missing} rows do not stand under their pseudonyms yet; nothing was deleted, run it again")
        client.command(f"ALTER TABLE usage_events DELETE WHERE {plain}", settings=_WAIT)
    return rows


def _renamed(batch: pa.Table, somebody: Somebody, pseudonyms: Pseudonyms) -> pa.Table:
    keys = [
        dedup_key(service, entity, usage_type)
        for service, entity, usage_type in zip(
            *(batch.column(name).to_pylist() for name in ("source_service", "source_entity_id", "usage_type")), strict=True
        )
    ]
    before = batch.column("source_entity_id").to_pylist()
    entities = [old if key_id_of(old) else pseudonyms.of_entity(key) for old, key in zip(before, keys, strict=True)]
    corrects = [_corrected(text, pseudonyms) for text in batch.column("corrects").to_pylist()]
    changed = {"source_entity_id": pa.array(entities, pa.string()), "corrects": pa.array(corrects, pa.string())}
    if somebody.kind == "tenant":
        changed["tenant_id"] = pa.array([pseudonyms.of("tenant", somebody.subject)] * batch.num_rows, pa.string())
    return _with(batch, changed)


def _corrected(text: str, pseudonyms: Pseudonyms) -> str:
    return text if "forgotten:" in text else pseudonyms.of_key(text.encode()).decode()


def _with(batch: pa.Table, changed: dict[str, pa.Array]) -> pa.Table:
    for name, column in changed.items():
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    return batch


def _rejects(client: Client, somebody: Somebody, reached: Positions) -> list[Position]:
    """Where the rejects about somebody stand, below the positions. Reads every one that was not cleared."""
    found = []
    with client.query_rows_stream(
        f"SELECT {_AT}, tenant_id, concat(raw_value, raw_key, toString(headers)) FROM usage_rejects FINAL"
        f" WHERE {below(reached)} AND detail != '{MARK}'",
        query_formats={"String": "bytes"},
    ) as rows:
        for epoch, partition, offset, tenant_id, raw in rows:
            if somebody.is_in(bytes(tenant_id).decode(), bytes(raw)):
                found.append(Position(epoch, partition, offset))
    return sorted(found)


def clear_rejects(client: Client, at: Sequence[Position], somebody: Somebody, pseudonyms: Pseudonyms) -> int:
    """Writes rejects again without their bytes, then deletes the ones that have them."""
    for start in range(0, len(at), POSITIONS_MAX):
        some = ", ".join(f"({one.epoch}, {one.partition}, {one.offset})" for one in at[start : start + POSITIONS_MAX])
        plain = f"({_AT}) IN ({some}) AND detail != '{MARK}'"
        batch = client.query_arrow(
            f"SELECT {_REJECT} FROM (SELECT * FROM usage_rejects WHERE {plain} LIMIT 1 BY {_AT})", use_strings=True
        )
        if batch.num_rows == 0:
            continue
        columns = [batch.column(name).to_pylist() for name in ("source_service", "source_entity_id", "usage_type", "tenant_id")]
        entities, tenants = [], []
        for service, entity, usage_type, tenant in zip(*columns, strict=True):
            known = not entity or key_id_of(entity) is not None
            entities.append(entity if known else pseudonyms.of_entity(dedup_key(service, entity, usage_type)))
            tenants.append(
                pseudonyms.of("tenant", tenant) if somebody.kind == "tenant" and tenant == somebody.subject else tenant
            )
        changed = {"source_entity_id": pa.array(entities, pa.string()), "tenant_id": pa.array(tenants, pa.string())}
        client.insert_arrow("usage_rejects", _with(batch, changed))
        client.command(f"ALTER TABLE usage_rejects DELETE WHERE {plain}", settings=_WAIT)
    return len(at)


def _count(client: Client, condition: str) -> int:
    """Rows at different positions."""
    ((rows,),) = client.query(f"SELECT uniqExact({_AT}) FROM usage_events WHERE {condition}").result_rows
    return int(rows)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
