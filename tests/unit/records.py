"""Records as Kafka would give them, for tests of the range chain."""

from __future__ import annotations

import json
from typing import Any

from metering.records import Record, Records, Span
from meterline_schemas.key import dedup_key, partition_of
from meterline_schemas.types import Epoch, Offset, Partition

NOW_MS = 1_790_100_000_000
PARTITIONS = 4


def body(entity: str, quantity: str = "1", tenant: str = "tnt_1", **over: Any) -> bytes:
    """A valid event's bytes, with any field replaced (None takes it away)."""
    event = {
        "tenantId": tenant,
        "sourceService": "worker",
        "sourceEntityId": entity,
        "usageType": "PHOTO",
        "quantity": quantity,
        "occurredAt": "2026-09-21T13:00:00Z",
    } | over
    return json.dumps({name: value for name, value in event.items() if value is not None}).encode()


def home(entity: str, usage_type: str = "PHOTO") -> int:
    """The partition that the entity's key leads to."""
    return partition_of(dedup_key("worker", entity, usage_type), PARTITIONS)


def entities(partition: int, count: int, prefix: str = "e") -> list[str]:
    """Entities whose keys lead to the partition."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        name = f"{prefix}{number}"
        if home(name) == partition:
            found.append(name)
        number += 1
    return found


def record(offset: int, value: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()) -> Record:
    return Record(Offset(offset), value, b"any", headers, NOW_MS)


def span(partition: int, first: int, values: list[bytes | None], end: int | None = None, epoch: int = 1) -> Span:
    """A range that starts at `first` and holds the values at successive offsets."""
    records = Records.of(record(first + index, value) for index, value in enumerate(values))
    return Span(
        Epoch(epoch), Partition(partition), Offset(first), Offset(end if end is not None else first + len(values)), records
    )
