"""Records of the log as columns, and the ranges that they make. Nothing here looks into a value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meterline_schemas.event import SCHEMA_VERSION_HEADER
from meterline_schemas.types import Epoch, Offset, Partition

Integers = NDArray[np.int64]
Headers = tuple[tuple[str, bytes], ...]

NO_HEADERS: Final[Headers] = ()
USUAL_HEADERS: Final[Headers] = ((SCHEMA_VERSION_HEADER, b"1"),)
"""What our producers send. A reader of the log that shares this one value makes comparisons quick."""


class Record(NamedTuple):
    """One record of the log, as Kafka gave it."""

    offset: Offset
    value: bytes | None
    key: bytes | None
    headers: Headers
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Records:
    """Records of one partition by ascending offset, a column an attribute."""

    offsets: Integers
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    headers: Sequence[Headers]
    timestamps_ms: Integers

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        """The same records."""
        found = list(records)
        return cls(
            np.array([record.offset for record in found], dtype=np.int64),
            [record.value for record in found],
            [record.key for record in found],
            [record.headers for record in found],
            np.array([record.timestamp_ms for record in found], dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[Records]) -> Records:
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.of(())
        return cls(
            np.concatenate([part.offsets for part in parts]),
            [value for part in parts for value in part.values],
            [key for part in parts for key in part.keys],
            [headers for part in parts for headers in part.headers],
            np.concatenate([part.timestamps_ms for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Record:
        return Record(
            Offset(int(self.offsets[index])),
            self.values[index],
            self.keys[index],
            self.headers[index],
            int(self.timestamps_ms[index]),
        )

    def __iter__(self) -> Iterator[Record]:
        for index in range(len(self)):
            yield self[index]

    def part(self, start: int, end: int) -> Records:
        """Those from the `start`-th up to, not including, the `end`-th."""
        if start == 0 and end == len(self):
            return self
        return Records(
            self.offsets[start:end],
            self.values[start:end],
            self.keys[start:end],
            self.headers[start:end],
            self.timestamps_ms[start:end],
        )

    def below(self, offset: int) -> int:
        """How many stand below `offset`."""
        return int(self.offsets.searchsorted(offset))

    def size(self) -> int:
        """Bytes of values, keys and headers."""
        size = sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))
        usual = self.headers.count(USUAL_HEADERS)
        size += usual * _size_of(USUAL_HEADERS)
        if usual + self.headers.count(NO_HEADERS) < len(self):
            size += sum(_size_of(headers) for headers in self.headers if headers != USUAL_HEADERS)
        return size

    def with_unusual_headers(self) -> list[int]:
        """Which carry more than what says nothing."""
        if self.headers.count(USUAL_HEADERS) + self.headers.count(NO_HEADERS) == len(self):
            return []
        return [index for index, headers in enumerate(self.headers) if headers and headers != USUAL_HEADERS]


def ascend(offsets: Integers) -> bool:
    """Whether each is above the one before."""
    return bool((offsets[1:] > offsets[:-1]).all())


def _size_of(headers: Headers) -> int:
    return sum(len(name) + len(value) for name, value in headers)


@dataclass(frozen=True, slots=True)
class Span:
    """A range [from_offset, to_offset) with the records it holds, by ascending offset; the other offsets are void."""

    epoch: Epoch
    partition: Partition
    from_offset: Offset
    to_offset: Offset
    records: Records

    def __post_init__(self) -> None:
        if not self.from_offset < self.to_offset:
            raise ValueError(f"an empty or backward range: [{self.from_offset}, {self.to_offset})")
        offsets = self.records.offsets
        if len(offsets) and not (self.from_offset <= offsets[0] and offsets[-1] < self.to_offset):
            raise ValueError(f"records outside their range [{self.from_offset}, {self.to_offset})")


def shorter(span: Span, records: int) -> Span:
    """The first `records` records of a range, ending right behind the last of them."""
    if not 0 < records < len(span.records):
        raise ValueError(f"cannot cut {len(span.records)} records to {records}")
    kept = span.records.part(0, records)
    return Span(span.epoch, span.partition, span.from_offset, Offset(int(kept.offsets[-1]) + 1), kept)


def cut_at(span: Span, offset: int) -> Span:
    """The part of a range below `offset`: a range never straddles a change of the rules."""
    if not span.from_offset < offset < span.to_offset:
        raise ValueError(f"{offset} does not lie within [{span.from_offset}, {span.to_offset})")
    kept = span.records.part(0, span.records.below(offset))
    return Span(span.epoch, span.partition, span.from_offset, Offset(offset), kept)
