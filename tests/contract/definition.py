"""The range chain's deciding half as it is defined: one record after the other, one dict of keys, plain integers.

The product does the same with columns; tests hold it equal to this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from metering.ranges import Claim
from metering.reading import Reading
from metering.records import Record
from meterline_schemas.delta import DeltaLine, Figures
from meterline_schemas.event import Event, Invalid, claim_of, conflict_reason, decode
from meterline_schemas.instants import utc_day
from meterline_schemas.key import key_hash, murmur2, partition_of, row_hash
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import Rules
from meterline_schemas.types import Micros, TenantId, UsageType

EPOCH = 1


@dataclass
class Defined:
    """What records of a partition are, from the first one of its log on."""

    admitted: list[Reading] = field(default_factory=list)
    rejects: list[tuple[int, str, Reason, str, int | None]] = field(default_factory=list)
    """offset, verdict, reason, detail, offset of the admitted row"""
    figures: Figures = field(default_factory=Figures)
    claims: dict[bytes, Claim] = field(default_factory=dict)

    def lines(self) -> tuple[DeltaLine, ...]:
        sums: dict[tuple[str, str, str], tuple[int, int]] = {}
        for reading in self.admitted:
            event = reading.event
            assert isinstance(event, Event)
            key = (event.tenant_id, event.usage_type, utc_day(event.occurred_at_ms))
            quantity, events = sums.get(key, (0, 0))
            sums[key] = quantity + event.quantity, events + 1
        return tuple(
            DeltaLine(TenantId(tenant), UsageType(usage_type), day, Micros(quantity), events)
            for (tenant, usage_type, day), (quantity, events) in sorted(sums.items())
        )


def reading_of(record: Record, partition: int, partitions: int, rules: Rules) -> Reading:
    """One record by itself."""
    event = decode(record.value, record.headers, record.timestamp_ms, rules)
    hashed = row_hash(record.value or b"")
    if isinstance(event, Invalid):
        return Reading(record, event, 0, 0, hashed)
    home = partition_of(event.key, partitions)
    if home == partition:
        return Reading(record, event, key_hash(event.key), murmur2(event.key), hashed)
    detail = f"the key leads to partition {home} of {partitions}, the record is in {partition}"
    names = (event.tenant_id, event.source_service, event.source_entity_id, event.usage_type)
    return Reading(record, Invalid(Reason.MISROUTED, detail, *names), 0, murmur2(event.key), hashed)


def defined(records: Sequence[Record], partition: int, partitions: int, rules: Rules) -> Defined:
    """The verdicts of a partition whose log is these records, at offsets without a gap."""
    found = Defined()
    counts = {"admitted": 0, "duplicate": 0, "conflict": 0, "invalid": 0}
    for reading in _readings(records, partition, partitions, rules):
        event, offset = reading.event, reading.record.offset
        if isinstance(event, Invalid):
            counts["invalid"] += 1
            found.rejects.append((offset, "invalid", event.reason, event.detail, None))
            continue
        claim = Claim(EPOCH, partition, offset, *claim_of(event), reading.row_hash, reading.key_hash)
        holder = found.claims.setdefault(event.key, claim)
        if holder is claim:
            counts["admitted"] += 1
            found.admitted.append(reading)
            continue
        reason = conflict_reason(holder.content, claim.content)
        if reason is not None:
            counts["conflict"] += 1
            names = ("tenantId", "quantity", "kind", "corrects")
            differing = [n for n, mine, its in zip(names, claim.content, holder.content, strict=True) if mine != its]
            found.rejects.append((offset, "conflict", reason, "differs in " + ", ".join(differing), holder.offset))
            continue
        counts["duplicate"] += 1
        if reading.row_hash != holder.row_hash:
            detail = "the same usage in other bytes; not counted again"
            found.rejects.append((offset, "duplicate", Reason.DIFFERING_DUPLICATE, detail, holder.offset))
    found.figures = Figures(**counts, hash_sum=sum(reading.row_hash for reading in found.admitted) % (1 << 64))
    return found


def _readings(records: Iterable[Record], partition: int, partitions: int, rules: Rules) -> Iterable[Reading]:
    return (reading_of(record, partition, partitions, rules) for record in records)
