"""The naive model: a dict of the first record of each key, one partition at a time, with no ranges at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from metering.records import Record
from meterline_schemas.delta import Figures
from meterline_schemas.event import Event, Invalid, claim_of, conflict_reason
from meterline_schemas.key import row_hash
from meterline_schemas.reasons import Reason
from tests.simulation import codec
from tests.simulation.tables import RejectRow, Row
from tests.simulation.workload import DAY_MS, PARTITIONS_OF, RULES_BY_VERSION


class Holder(NamedTuple):
    """The first record of a key, and where it stands."""

    epoch: int
    record: Record
    event: Event


@dataclass
class Expected:
    """What must hold of one partition. `figures[offset]` are the cumulative ones at the offset."""

    figures: list[Figures]
    rows: dict[int, Row] = field(default_factory=dict)
    rejects: dict[int, RejectRow] = field(default_factory=dict)
    first: dict[bytes, Holder] = field(default_factory=dict)
    """Of each key that was admitted here, or in an older epoch, the first record."""


def expected(
    partition: int,
    log: Sequence[Record | None],
    rules_from: Sequence[tuple[int, int]],
    start: int = 0,
    epoch: int = 1,
    older: Mapping[bytes, Holder] = MappingProxyType({}),
    ingested: Callable[[Record], int] = lambda record: record.timestamp_ms,
) -> Expected:
    """The verdicts of a partition's log from the epoch's start on, under the rules in force.

    `older` are the keys that older epochs have admitted; `ingested` is when the log took a record first.
    """
    found = Expected([Figures()] * (start + 1))
    first = found.first
    first.update(older)
    partitions = PARTITIONS_OF[epoch]
    admitted = duplicate = conflict = invalid = void = hash_sum = 0
    starts: Mapping[int, int] = dict(sorted(rules_from))
    version = 0
    for offset, record in enumerate(log[start:], start):
        version = starts.get(offset, version)
        if record is None:
            void += 1
        else:
            event = codec.decode(record.value, record.headers, ingested(record), RULES_BY_VERSION[version])
            hashed = row_hash(record.value or b"")
            if isinstance(event, Event) and (codec.murmur2(event.key) & 0x7FFFFFFF) % partitions != partition:
                event = Invalid(Reason.MISROUTED, "")
            if isinstance(event, Invalid):
                invalid += 1
                found.rejects[offset] = _reject(epoch, partition, record, "invalid", event.reason, None)
            elif event.key not in first:
                first[event.key] = Holder(epoch, record, event)
                admitted += 1
                hash_sum = (hash_sum + hashed) % (1 << 64)
                found.rows[offset] = _row(epoch, partition, offset, event, hashed)
            else:
                holder = first[event.key]
                at = (holder.epoch, int(holder.record.offset))
                reason = conflict_reason(claim_of(holder.event), claim_of(event))
                if reason is not None:
                    conflict += 1
                    found.rejects[offset] = _reject(epoch, partition, record, "conflict", reason, at)
                else:
                    duplicate += 1
                    if record.value != holder.record.value:
                        reason = Reason.DIFFERING_DUPLICATE
                        found.rejects[offset] = _reject(epoch, partition, record, "duplicate", reason, at)
        found.figures.append(Figures(admitted, duplicate, conflict, invalid, void, hash_sum))
    return found


def _row(epoch: int, partition: int, offset: int, event: Event, hashed: int) -> Row:
    return Row(
        epoch,
        partition,
        offset,
        event.key,
        codec.key_hash(event.key),
        event.tenant_id,
        event.usage_type,
        event.occurred_at_ms // DAY_MS,
        event.quantity,
        event.kind,
        event.corrects,
        hashed,
    )


def _reject(
    epoch: int, partition: int, record: Record, verdict: str, reason: Reason, admitted: tuple[int, int] | None
) -> RejectRow:
    return RejectRow(epoch, partition, record.offset, verdict, str(reason), record.value, record.headers, admitted)
