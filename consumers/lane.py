"""One owned partition: where it stands, what it knows, and the records that wait to be decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from metering.index import CommittedIndex
from metering.ranges import Decided, Pending, suspects
from metering.ranked import Ranked
from metering.reading import Readings
from metering.records import Integers, Records, Span, ascend, cut_at
from metering.suspicion import Suspicion
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
    eof: Offset | None = None
    waiting: int = 0
    """Records that wait."""
    waiting_bytes: int = 0
    """Of those records, keys and headers included."""
    stored: Offset = field(init=False)
    """C holds the keys of all positions below it."""
    _parts: list[Records] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stored = self.next_offset

    def take(self, records: Records) -> None:
        """The next records from the log. Raises ValueError unless they come after all before them."""
        if not len(records):
            return
        newest = int(self._parts[-1].offsets[-1]) if self._parts else self.next_offset - 1
        if records.offsets[0] <= newest or not ascend(records.offsets):
            raise ValueError(f"partition {self.partition}: offset {records.offsets[0]} after {newest}, or records out of order")
        self._parts.append(records)
        self.waiting += len(records)
        self.waiting_bytes += records.size()

    def records(self) -> Records:
        """Those that wait."""
        if len(self._parts) != 1:
            self._parts = [Records.joined(self._parts)] if self._parts else []
        return self._parts[0] if self._parts else Records.of(())

    def has_work(self) -> bool:
        """Whether anything may be there to decide."""
        return self.waiting > 0 or self.eof is not None

    def reached_end(self, offset: Offset) -> None:
        """The log ends at `offset` for now: what lies below it without a record is void."""
        self.eof = offset

    def span(self, changes: Sequence[int]) -> Span | None:
        """The waiting records as one range, or None when there is nothing to decide.

        `changes` are the offsets at which the rules change; a range ends there.
        """
        records = self.records()
        to_offset = Offset(int(records.offsets[-1]) + 1) if len(records) else self.next_offset
        if self.eof is not None and self.eof > to_offset:
            to_offset = self.eof
        if to_offset == self.next_offset:
            return None
        span = Span(self.epoch, self.partition, self.next_offset, to_offset, records)
        for change in changes:
            if span.from_offset < change < span.to_offset:
                span = cut_at(span, change)
        return span

    def drop_waiting(self) -> None:
        """Forgets what waits: nothing here will decide it."""
        self._parts, self.eof, self.waiting, self.waiting_bytes = [], None, 0, 0

    def decided(self, decided: Decided) -> None:
        """Moves the lane behind a range; the range waits in P until it is acknowledged."""
        span = decided.span
        if span.from_offset != self.next_offset:
            raise ValueError(f"a range from {span.from_offset} does not continue {self.next_offset}")
        records = self.records()
        left = records.part(records.below(span.to_offset), len(records))
        self._parts = [left] if len(left) else []
        self.waiting, self.waiting_bytes = len(left), left.size() if len(left) else 0
        if self.eof is not None and self.eof <= span.to_offset:
            self.eof = None
        self.next_offset, self.rules_version, self.figures = span.to_offset, decided.rules_version, decided.figures
        self.pending.add(decided)

    def acknowledged(self, decided: Decided) -> None:
        """Moves the oldest range of P, which must be `decided`, to C."""
        self.pending.acknowledge(decided, self.committed_index)
        self.stored = decided.span.to_offset

    def suspects(self, readings: Readings, partitions: int, at_hand: Iterable[Ranked] = ()) -> tuple[Suspicion, Integers]:
        """What must be asked before the records are decided, and the rows that repeat one which is at hand.

        The topic has so many partitions; what is at hand are rows of this one.
        """
        hashes, repeats = suspects(readings, self.committed_index, self.pending, at_hand)
        return Suspicion(self.epoch, self.partition, partitions, self.stored, self.committed_index, hashes), repeats
