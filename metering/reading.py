"""What the records of a range say, before any look-up: the valid events as columns, the others one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from metering import fast_lane
from metering.columns import NO_EVENTS, Columns, Row, joined, of_rows
from metering.index import Hashes
from metering.records import Integers, Record, Records, Span
from meterline_schemas.event import Event, Invalid, decode
from meterline_schemas.ingest import ingested_ms
from meterline_schemas.key import key_hash, murmur2, row_hash
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import Rules

SLICE_RECORDS: Final = 16_384
"""Records that are read at a time: few enough for the processor's caches."""

_FEW_RECORDS = 64
"""So few are read one by one: making columns of them would take longer."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A record with what its bytes say."""

    record: Record
    event: Event | Invalid
    key_hash: int
    key_murmur2: int
    row_hash: int


@dataclass(frozen=True, slots=True)
class Readings:
    """The records of a range, read. In its span's records the timestamp is the ingest time."""

    span: Span
    columns: Columns
    invalid: tuple[tuple[int, Reading], ...]
    """Each with its record's number in the range."""
    order: Integers = field(init=False)
    """The rows by their keys' hashes, equal ones by their offsets."""
    ranked: Hashes = field(init=False)
    """The hashes in that order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", self.columns.key_hash.argsort(kind="stable"))
        object.__setattr__(self, "ranked", self.columns.key_hash[self.order])

    def __len__(self) -> int:
        return len(self.span.records)

    def reading(self, row: int) -> Reading:
        """A valid event with its record."""
        columns = self.columns
        return Reading(
            self.span.records[int(columns.record[row])],
            columns.event(row),
            int(columns.key_hash[row]),
            int(columns.key_murmur2[row]),
            int(columns.row_hash[row]),
        )

    def within(self, span: Span) -> Readings:
        """Those of a range that begins as this one does and ends earlier."""
        records = len(span.records)
        rows = int(np.searchsorted(self.columns.record, records))
        # A copy: a range is kept for long, and a part of these columns would keep them whole.
        return Readings(span, self.columns.take(np.arange(rows)), tuple(one for one in self.invalid if one[0] < records))


def read(span: Span, rules: Rules, partitions: int, between: Callable[[], None] = lambda: None) -> Readings:
    """What each record says. A record in another partition than its key leads to is invalid (`misrouted`).

    `between` is called after every SLICE_RECORDS records, for whoever must not wait for a whole range.
    """
    if span.epoch > 1:
        span = replace(span, records=_as_ingested(span, rules))
    parts: list[Columns] = []
    invalid: list[tuple[int, Reading]] = []
    for start in range(0, len(span.records), SLICE_RECORDS):
        records = span.records.part(start, min(start + SLICE_RECORDS, len(span.records)))
        few = len(records) <= _FEW_RECORDS
        quick = NO_EVENTS if few else fast_lane.taken(records, start, span.partition, partitions, rules)
        rows: list[Row] = []
        if len(quick) < len(records):
            left = np.ones(len(records), dtype=bool)
            left[quick.record - start] = False
            for index in np.flatnonzero(left).tolist():
                reading = _read_one(records[index], span.partition, partitions, rules)
                if isinstance(reading.event, Invalid):
                    invalid.append((start + index, reading))
                else:
                    rows.append(_row(start + index, reading, reading.event))
        if rows and len(quick):
            both = joined((quick, of_rows(rows)))
            quick = both.take(np.argsort(both.record))
        parts.append(quick if len(quick) else of_rows(rows))
        between()
    return Readings(span, joined(parts) if parts else NO_EVENTS, tuple(invalid))


def _as_ingested(span: Span, rules: Rules) -> Records:
    """The records with the times at which the first epoch took them: some were forwarded from an older one."""
    records = span.records
    times_ms = records.timestamps_ms.copy()
    for index in records.with_unusual_headers():
        times_ms[index] = ingested_ms(span.epoch, records.headers[index], int(times_ms[index]), rules)
    return replace(records, timestamps_ms=times_ms)


def _read_one(record: Record, partition: int, partitions: int, rules: Rules) -> Reading:
    """The definition, on one record."""
    event = decode(record.value, record.headers, record.timestamp_ms, rules)
    hashed = murmured = 0
    if isinstance(event, Event):
        murmured = murmur2(event.key)
        home = (murmured & 0x7FFFFFFF) % partitions
        if home == partition:
            hashed = key_hash(event.key)
        else:
            event = Invalid(
                Reason.MISROUTED,
                f"the key leads to partition {home} of {partitions}, the record is in {partition}",
                event.tenant_id,
                event.source_service,
                event.source_entity_id,
                event.usage_type,
            )
    return Reading(record, event, hashed, murmured, row_hash(record.value or b""))


def _row(number: int, reading: Reading, event: Event) -> Row:
    record = reading.record
    return Row(
        number, record.offset, record.timestamp_ms, event, reading.key_hash, reading.key_murmur2, reading.row_hash
    )  # fmt: skip
