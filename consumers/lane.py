"""One owned partition: where it stands, what it knows, and the records that wait to be decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from metering.index import CommittedIndex
from metering.ranges import Decided, Pending, Record, Span, cut_at
from meterline_schemas.delta import Figures
from meterline_schemas.types import Epoch, Offset, Partition


@dataclass
class Lane:
    """Touched by the deciding thread only.

    `next_offset`, `rules_version` and `figures` are at the end of the newest decided range; `committed_index` and
    `pending` are C and P.
    """

    epoch: Epoch
    partition: Partition
    next_offset: Offset
    rules_version: int
    figures: Figures
    committed_index: CommittedIndex
    pending: Pending = field(default_factory=Pending)
    records: deque[Record] = field(default_factory=deque)
    eof: Offset | None = None
    waiting_bytes: int = 0
    """Of the records that wait, keys and headers included."""

    def take(self, record: Record) -> None:
        """A record from the log, in order."""
        newest = self.records[-1].offset if self.records else self.next_offset - 1
        if record.offset <= newest:
            raise ValueError(f"partition {self.partition}: offset {record.offset} after {newest}")
        self.records.append(record)
        self.waiting_bytes += _bytes_of(record)

    def reached_end(self, offset: Offset) -> None:
        """The log ends at `offset` for now: what lies below it without a record is void."""
        self.eof = offset

    def span(self, changes: Sequence[int]) -> Span | None:
        """The waiting records as one range, or None when there is nothing to decide.

        `changes` are the offsets at which the rules change; a range ends there.
        """
        to_offset = Offset(self.records[-1].offset + 1) if self.records else self.next_offset
        if self.eof is not None and self.eof > to_offset:
            to_offset = self.eof
        if to_offset == self.next_offset:
            return None
        span = Span(self.epoch, self.partition, self.next_offset, to_offset, tuple(self.records))
        for change in changes:
            if span.from_offset < change < span.to_offset:
                span = cut_at(span, change)
        return span

    def drop_waiting(self) -> None:
        """Forgets what waits: nothing here will decide it."""
        self.records.clear()
        self.eof, self.waiting_bytes = None, 0

    def decided(self, decided: Decided) -> None:
        """Moves the lane behind a range; the range waits in P until it is acknowledged."""
        span = decided.span
        if span.from_offset != self.next_offset:
            raise ValueError(f"a range from {span.from_offset} does not continue {self.next_offset}")
        while self.records and self.records[0].offset < span.to_offset:
            self.waiting_bytes -= _bytes_of(self.records.popleft())
        if self.eof is not None and self.eof <= span.to_offset:
            self.eof = None
        self.next_offset, self.rules_version, self.figures = span.to_offset, decided.rules_version, decided.figures
        self.pending.add(decided)


def _bytes_of(record: Record) -> int:
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.value or b"") + len(record.key or b"") + headers
