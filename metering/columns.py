"""Valid events as columns: what `meterline_schemas.event.Event` is for one, for all events of a range.

Held equal to the definition, field by field, on golden and fuzzed bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metering import texts
from metering.index import Hashes
from metering.records import Integers
from metering.texts import Texts
from meterline_schemas.event import Event
from meterline_schemas.types import Micros


@dataclass(frozen=True, slots=True)
class Columns:
    """Events of one partition, a row each, by ascending offset."""

    record: Integers
    """Which of the range's records each is."""
    offset: Integers
    ingested_ms: Integers
    tenant_id: Texts
    source_service: Texts
    source_entity_id: Texts
    usage_type: Texts
    micros: Integers
    kind: Texts
    corrects: Texts
    occurred_ms: Integers
    metadata: Texts
    key: Texts
    key_hash: Hashes
    key_murmur2: NDArray[np.uint32]
    row_hash: Hashes

    def __len__(self) -> int:
        return len(self.offset)

    def event(self, row: int) -> Event:
        """One of them, by itself."""
        (tenant_id, service, entity, usage_type, kind, corrects, metadata, key) = (
            texts.listed(column[row : row + 1])[0]
            for column in (
                self.tenant_id, self.source_service, self.source_entity_id, self.usage_type,
                self.kind, self.corrects, self.metadata, self.key,
            )
        )  # fmt: skip
        micros, occurred_ms = Micros(int(self.micros[row])), int(self.occurred_ms[row])
        return Event(tenant_id, service, entity, usage_type, micros, kind, corrects, occurred_ms, metadata, key)

    def take(self, rows: Integers) -> Columns:
        """These rows, in this order."""
        columns = (getattr(self, name) for name in _NAMES)
        return Columns(*(column[rows] if isinstance(column, np.ndarray) else texts.take(column, rows) for column in columns))


_NAMES: Final = tuple(field.name for field in fields(Columns))
TEXT_TYPES: Final = {
    "tenant_id": pa.string(),
    "source_service": pa.string(),
    "source_entity_id": pa.string(),
    "usage_type": pa.string(),
    "kind": pa.string(),
    "corrects": pa.binary(),
    "metadata": pa.binary(),
    "key": pa.binary(),
}


def joined(parts: Sequence[Columns]) -> Columns:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    columns: list[Any] = []
    for name in _NAMES:
        found = [getattr(part, name) for part in parts]
        kind = TEXT_TYPES.get(name)
        columns.append(np.concatenate(found) if kind is None else texts.joined(found, kind))
    return Columns(*columns)


@dataclass(frozen=True, slots=True)
class Row:
    """An event that was read by itself, on its way into columns."""

    record: int
    offset: int
    ingested_ms: int
    event: Event
    key_hash: int
    key_murmur2: int
    row_hash: int


def of_rows(rows: Sequence[Row]) -> Columns:
    """The columns of events that were read one by one."""
    events = [row.event for row in rows]
    return Columns(
        np.array([row.record for row in rows], dtype=np.int64),
        np.array([row.offset for row in rows], dtype=np.int64),
        np.array([row.ingested_ms for row in rows], dtype=np.int64),
        [event.tenant_id for event in events],
        [event.source_service for event in events],
        [event.source_entity_id for event in events],
        [event.usage_type for event in events],
        np.array([event.quantity for event in events], dtype=np.int64),
        [event.kind for event in events],
        [event.corrects for event in events],
        np.array([event.occurred_at_ms for event in events], dtype=np.int64),
        [event.metadata for event in events],
        [event.key for event in events],
        np.array([row.key_hash for row in rows], dtype=np.uint64),
        np.array([row.key_murmur2 for row in rows], dtype=np.uint32),
        np.array([row.row_hash for row in rows], dtype=np.uint64),
    )


NO_EVENTS: Final = of_rows(())
