"""The deciding half of the range chain: what each record of [from, to) is, and what the range adds.

Pure: the consumer and the simulation call these very functions. A verdict is a function of the log below the record in
its partition and of the rules in force at its position; nothing else may enter.

A look-up goes current range, P (decided, not yet in C), C (acknowledged). A hit in C is only suspected: `suspects`
names the hashes, the caller fetches the admitted rows of those hashes, `decide` compares full keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np

from metering.index import CommittedIndex, Hashes
from meterline_schemas.delta import Delta, DeltaLine, Figures
from meterline_schemas.event import Claim as Content
from meterline_schemas.event import Event, Invalid, claim_of, conflict_reason, decode
from meterline_schemas.ingest import ingested_ms
from meterline_schemas.key import key_hash, murmur2, row_hash
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import Rules
from meterline_schemas.types import Epoch, Kind, Micros, Offset, Partition, TenantId, UsageType

_DAY_MS = 86_400_000
_MASK64 = (1 << 64) - 1


class Record(NamedTuple):
    """One record of the log, as Kafka gave it. In a Reading `timestamp_ms` is the ingest time."""

    offset: Offset
    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Span:
    """A range [from_offset, to_offset) with the records it holds, by ascending offset; the other offsets are void."""

    epoch: Epoch
    partition: Partition
    from_offset: Offset
    to_offset: Offset
    records: tuple[Record, ...]

    def __post_init__(self) -> None:
        if not self.from_offset < self.to_offset:
            raise ValueError(f"an empty or backward range: [{self.from_offset}, {self.to_offset})")
        if self.records and not (self.from_offset <= self.records[0].offset and self.records[-1].offset < self.to_offset):
            raise ValueError(f"records outside their range [{self.from_offset}, {self.to_offset})")


@dataclass(frozen=True, slots=True)
class Reading:
    """A record with what its bytes say, before any look-up."""

    record: Record
    event: Event | Invalid
    key_hash: int
    key_murmur2: int
    row_hash: int


class Claim(NamedTuple):
    """The admitted holder of a key: where it stands, and what a later record of the key is compared with."""

    epoch: int
    partition: int
    offset: int
    tenant_id: str
    quantity: Micros
    kind: str
    corrects: bytes
    row_hash: int

    @property
    def position(self) -> tuple[int, int]:
        return self.epoch, self.offset


@dataclass(frozen=True, slots=True)
class Admitted:
    """A row for usage_events."""

    reading: Reading
    event: Event


@dataclass(frozen=True, slots=True)
class Reject:
    """A row for usage_rejects: an invalid record, a conflict, or a duplicate whose bytes differ."""

    reading: Reading
    verdict: Literal["invalid", "conflict", "duplicate"]
    reason: Reason
    detail: str
    admitted: Claim | None


@dataclass(frozen=True, slots=True)
class Decided:
    """A range with its verdicts: what to store, what to announce, what to commit."""

    span: Span
    rules_version: int
    admitted: tuple[Admitted, ...]
    rejects: tuple[Reject, ...]
    claims: Mapping[bytes, Claim]
    hashes: Hashes
    delta: Delta

    @property
    def figures(self) -> Figures:
        """Cumulative at `to`, since the epoch's start."""
        return self.delta.cumulative


class Pending:
    """P: ranges of one partition that are decided and not yet in C, the oldest first.

    Only the deciding thread may touch it. A range leaves by `acknowledge`, which adds it to C before it drops it.
    """

    def __init__(self) -> None:
        self._ranges: list[Decided] = []

    def __len__(self) -> int:
        return len(self._ranges)

    def add(self, decided: Decided) -> None:
        self._ranges.append(decided)

    def claim(self, key: bytes) -> Claim | None:
        """The claim on `key` by a range in P."""
        for decided in self._ranges:
            found = decided.claims.get(key)
            if found is not None:
                return found
        return None

    def acknowledge(self, decided: Decided, committed: CommittedIndex) -> None:
        """Moves the oldest range, which must be `decided`, to C."""
        if not self._ranges or self._ranges[0] is not decided:
            raise ValueError("ranges are acknowledged in the order in which they were decided")
        committed.add(decided.hashes)
        self._ranges.pop(0)


def read(span: Span, rules: Rules, partitions: int) -> list[Reading]:
    """What each record says. A record in another partition than its key leads to is invalid (`misrouted`)."""
    readings = []
    for record in span.records:
        value = record.value or b""
        if span.epoch > 1:
            record = record._replace(timestamp_ms=ingested_ms(span.epoch, record.headers, record.timestamp_ms, rules))
        event = decode(record.value, record.headers, record.timestamp_ms, rules)
        hashed = murmured = 0
        if isinstance(event, Event):
            murmured = murmur2(event.key)
            home = (murmured & 0x7FFFFFFF) % partitions
            if home == span.partition:
                hashed = key_hash(event.key)
            else:
                event = Invalid(
                    Reason.MISROUTED,
                    f"the key leads to partition {home} of {partitions}, the record is in {span.partition}",
                    event.tenant_id,
                    event.source_service,
                    event.source_entity_id,
                    event.usage_type,
                )
        readings.append(Reading(record, event, hashed, murmured, row_hash(value)))
    return readings


def suspects(readings: Sequence[Reading], committed: CommittedIndex, pending: Pending) -> Hashes:
    """The hashes whose admitted rows `decide` needs: those that C holds and that P does not answer."""
    valid = [reading for reading in readings if isinstance(reading.event, Event)]
    if not valid:
        return np.empty(0, dtype=np.uint64)
    hashes = np.fromiter((reading.key_hash for reading in valid), dtype=np.uint64, count=len(valid))
    hit = committed.hits(hashes)
    wanted = [
        reading.key_hash
        for reading, suspected in zip(valid, hit.tolist(), strict=True)
        if suspected and isinstance(reading.event, Event) and pending.claim(reading.event.key) is None
    ]
    return np.unique(np.array(wanted, dtype=np.uint64))


def decide(
    span: Span,
    readings: Sequence[Reading],
    rules: Rules,
    pending: Pending,
    confirmed: Mapping[bytes, Claim],
    before: Figures,
) -> Decided:
    """The verdicts of a range.

    `confirmed` maps keys to their admitted rows among the suspects; a row at the record's own or a later position is
    ignored, for a row never recognises itself. `before` are the cumulative figures at `from_offset`.
    """
    claims: dict[bytes, Claim] = {}
    admitted: list[Admitted] = []
    rejects: list[Reject] = []
    sums: dict[tuple[TenantId, UsageType, int], tuple[int, int]] = {}
    duplicates = conflicts = invalids = 0
    hash_sum = 0

    for reading in readings:
        event, offset = reading.event, reading.record.offset
        if isinstance(event, Invalid):
            invalids += 1
            rejects.append(Reject(reading, "invalid", event.reason, event.detail, None))
            continue
        holder = claims.get(event.key) or pending.claim(event.key)
        if holder is None:
            holder = confirmed.get(event.key)
            if holder is not None and holder.position >= (span.epoch, offset):
                holder = None
        if holder is None:
            claims[event.key] = Claim(
                span.epoch, span.partition, offset, event.tenant_id, event.quantity, event.kind, event.corrects, reading.row_hash
            )
            admitted.append(Admitted(reading, event))
            hash_sum += reading.row_hash
            line = (TenantId(event.tenant_id), UsageType(event.usage_type), event.occurred_at_ms // _DAY_MS)
            quantity, count = sums.get(line, (0, 0))
            sums[line] = quantity + event.quantity, count + 1
            continue
        reason = conflict_reason(
            Content(holder.tenant_id, holder.quantity, cast(Kind, holder.kind), holder.corrects), claim_of(event)
        )
        if reason is not None:
            conflicts += 1
            rejects.append(Reject(reading, "conflict", reason, "differs in " + ", ".join(_differences(event, holder)), holder))
        else:
            duplicates += 1
            if reading.row_hash != holder.row_hash:
                rejects.append(
                    Reject(
                        reading,
                        "duplicate",
                        Reason.DIFFERING_DUPLICATE,
                        "the same usage in other bytes; not counted again",
                        holder,
                    )
                )

    figures = Figures(
        admitted=before.admitted + len(admitted),
        duplicate=before.duplicate + duplicates,
        conflict=before.conflict + conflicts,
        invalid=before.invalid + invalids,
        void=before.void + (span.to_offset - span.from_offset) - len(readings),
        hash_sum=(before.hash_sum + hash_sum) & _MASK64,
    )
    lines = tuple(
        DeltaLine(tenant, usage_type, _day(day), Micros(quantity), count)
        for (tenant, usage_type, day), (quantity, count) in sorted(sums.items())
    )
    return Decided(
        span=span,
        rules_version=rules.version,
        admitted=tuple(admitted),
        rejects=tuple(rejects),
        claims=claims,
        hashes=np.fromiter((row.reading.key_hash for row in admitted), dtype=np.uint64, count=len(admitted)),
        delta=Delta(span.epoch, span.partition, span.from_offset, span.to_offset, rules.version, lines, figures),
    )


def _differences(event: Event, holder: Claim) -> list[str]:
    """What makes the record a conflict with the admitted row, by the names on the wire."""
    return [
        name
        for name, mine, theirs in (
            ("tenantId", event.tenant_id, holder.tenant_id),
            ("quantity", event.quantity, holder.quantity),
            ("kind", event.kind, holder.kind),
            ("corrects", event.corrects, holder.corrects),
        )
        if mine != theirs
    ]


def _day(days_since_1970: int) -> str:
    return str(np.datetime64(days_since_1970, "D"))


def shorter(span: Span, records: int) -> Span:
    """The first `records` records of a range, ending right behind the last of them."""
    if not 0 < records < len(span.records):
        raise ValueError(f"cannot cut {len(span.records)} records to {records}")
    kept = span.records[:records]
    return Span(span.epoch, span.partition, span.from_offset, Offset(kept[-1].offset + 1), kept)


def cut_at(span: Span, offset: int) -> Span:
    """The part of a range below `offset`: a range never straddles a change of the rules."""
    if not span.from_offset < offset < span.to_offset:
        raise ValueError(f"{offset} does not lie within [{span.from_offset}, {span.to_offset})")
    kept = tuple(record for record in span.records if record.offset < offset)
    return Span(span.epoch, span.partition, span.from_offset, Offset(offset), kept)
