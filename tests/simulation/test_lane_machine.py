"""T2: a lane hands out every record once and in order, whatever arrives and wherever ranges are cut."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consumers.lane import Lane
from metering.columns import NO_EVENTS
from metering.index import CommittedIndex
from metering.ranges import Decided
from metering.ranked import Ranked
from metering.records import Record, Records, Span, cut_at, shorter
from meterline_schemas.delta import Delta, Figures
from meterline_schemas.types import Epoch, Offset, Partition
from tests.simulation.unhurried import unhurried

_START = 7


class LaneMachine(RuleBasedStateMachine):
    """The model: the log's offsets that hold a record, and how far they were read and handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(Epoch(1), Partition(0), Offset(_START), 1, Figures(), CommittedIndex())
        self.log: list[Record] = []
        self.end = _START
        self.waiting: list[Record] = []
        self.seen_end = _START
        self.handed: list[Record] = []

    @rule(void=st.integers(0, 3), size=st.integers(0, 20), keyed=st.booleans())
    def a_record_arrives(self, void: int, size: int, keyed: bool) -> None:
        offset = self.end + void
        record = Record(Offset(offset), b"v" * size or None, b"key" if keyed else None, (("h", b"x" * size),), 0)
        self.end = offset + 1
        self.log.append(record)
        self.waiting.append(record)
        self.lane.take(Records.of([record]))
        self.seen_end = max(self.seen_end, self.end)

    @rule(void=st.integers(0, 3))
    def the_end_of_the_log_is_seen(self, void: int) -> None:
        self.end += void
        if self.end > self.lane.next_offset:
            self.lane.reached_end(Offset(self.end))
            self.seen_end = self.end

    @precondition(lambda self: bool(self.waiting))
    @rule(back=st.integers(0, 5))
    def a_record_out_of_order_is_refused(self, back: int) -> None:
        try:
            self.lane.take(Records.of([self.waiting[-1]._replace(offset=Offset(self.waiting[-1].offset - back))]))
        except ValueError:
            return
        raise AssertionError("a record was taken twice")

    @rule(changes=st.lists(st.integers(_START, _START + 60), max_size=3, unique=True).map(sorted), data=st.data())
    def a_range_is_decided(self, changes: list[int], data: st.DataObject) -> None:
        at = int(self.lane.next_offset)
        span = self.lane.span(changes)
        if span is None:
            assert self.seen_end == at
            return
        ahead = [change for change in changes if at < change < self.seen_end]
        assert (span.from_offset, span.to_offset) == (at, min([self.seen_end, *ahead]))
        assert list(span.records) == [record for record in self.waiting if record.offset < span.to_offset]
        if len(span.records) > 1 and data.draw(st.booleans(), "cut to fit a delta"):
            records = data.draw(st.integers(1, len(span.records) - 1), "records kept")
            span = shorter(span, records)
            assert len(span.records) == records
        elif span.to_offset - span.from_offset > 1 and data.draw(st.booleans(), "cut at an offset"):
            span = cut_at(span, data.draw(st.integers(span.from_offset + 1, span.to_offset - 1), "offset"))
        self._decide(span)

    def _decide(self, span: Span) -> None:
        figures = Figures(void=span.to_offset - _START)
        delta = Delta(span.epoch, span.partition, span.from_offset, span.to_offset, 1, (), figures)
        self.lane.decided(Decided(span, 1, Ranked.of(NO_EVENTS), (), delta))
        self.handed += span.records
        self.waiting = self.waiting[len(span.records) :]
        assert self.lane.next_offset == span.to_offset
        assert self.lane.figures == figures

    @invariant()
    def every_record_is_handed_out_once_or_waits(self) -> None:
        assert self.handed + self.waiting == self.log
        assert list(self.lane.records()) == self.waiting
        assert self.lane.waiting == len(self.waiting)

    @invariant()
    def an_end_that_was_reached_is_forgotten(self) -> None:
        assert self.lane.eof is None or self.lane.eof > self.lane.next_offset

    @invariant()
    def the_bytes_that_wait_are_counted(self) -> None:
        waiting = [len(r.value or b"") + len(r.key or b"") + sum(len(n) + len(v) for n, v in r.headers) for r in self.waiting]
        assert self.lane.waiting_bytes == sum(waiting)


TestLane = LaneMachine.TestCase
TestLane.settings = unhurried(examples=60, steps=40)
