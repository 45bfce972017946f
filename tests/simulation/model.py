"""The naive model: a dict of the first record of each key, one partition at a time, with no ranges at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metering.records import Record
from meterline_schemas.delta import Figures
from meterline_schemas.event import Event, Invalid, claim_of, conflict_reason
from meterline_schemas.key import row_hash
from meterline_schemas.reasons import Reason
from tests.simulation import codec
from tests.simulation.tables import RejectRow, Row
from tests.simulation.workload import DAY_MS, PARTITIONS, RULES_BY_VERSION


@dataclass
class Expected:
    """What must hold of one partition. `figures[offset]` are the cumulative ones at the offset."""

    figures: list[Figures]
    rows: dict[int, Row] = field(default_factory=dict)
    rejects: dict[int, RejectRow] = field(default_factory=dict)


def expected(partition: int, log: Sequence[Record | None], rules_from: Sequence[tuple[int, int]], start: int = 0) -> Expected:
    """The verdicts of a partition's log from the epoch's start on, under the rules in force."""
    found = Expected([Figures()] * (start + 1))
    first: dict[bytes, tuple[Record, Event]] = {}
    admitted = duplicate = conflict = invalid = void = hash_sum = 0
    starts: Mapping[int, int] = dict(rules_from)
    version = 0
    for offset, record in enumerate(log[start:], start):
        version = starts.get(offset, version)
        if record is None:
            void += 1
        else:
            event = codec.decode(record.value, record.headers, record.timestamp_ms, RULES_BY_VERSION[version])
            hashed = row_hash(record.value or b"")
            if isinstance(event, Event) and (codec.murmur2(event.key) & 0x7FFFFFFF) % PARTITIONS != partition:
                event = Invalid(Reason.MISROUTED, "")
            if isinstance(event, Invalid):
                invalid += 1
                found.rejects[offset] = _reject(partition, record, "invalid", event.reason, None)
            elif event.key not in first:
                first[event.key] = record, event
                admitted += 1
                hash_sum = (hash_sum + hashed) % (1 << 64)
                found.rows[offset] = _row(partition, offset, event, hashed)
            else:
                holder, held = first[event.key]
                reason = conflict_reason(claim_of(held), claim_of(event))
                if reason is not None:
                    conflict += 1
                    found.rejects[offset] = _reject(partition, record, "conflict", reason, holder.offset)
                else:
                    duplicate += 1
                    if record.value != holder.value:
                        found.rejects[offset] = _reject(partition, record, "duplicate", Reason.DIFFERING_DUPLICATE, holder.offset)
        found.figures.append(Figures(admitted, duplicate, conflict, invalid, void, hash_sum))
    return found


def _row(partition: int, offset: int, event: Event, hashed: int) -> Row:
    return Row(
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


def _reject(partition: int, record: Record, verdict: str, reason: Reason, admitted: int | None) -> RejectRow:
    return RejectRow(partition, record.offset, verdict, str(reason), record.value, record.headers, admitted)
