"""T2: wherever ranges are cut, acknowledged or lost, the verdicts are those of a dict of first records."""

from __future__ import annotations

from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from metering.index import CommittedIndex
from metering.ranges import Decided, Pending, decide, suspects
from metering.reading import read
from metering.records import Records, Span, cut_at, shorter
from meterline_schemas.delta import Figures
from meterline_schemas.types import Epoch, Offset, Partition
from tests.simulation import codec, seams
from tests.simulation.event_log import EventLog
from tests.simulation.model import expected
from tests.simulation.tables import Tables, admitted_rows, reject_rows
from tests.simulation.unhurried import unhurried
from tests.simulation.workload import MESSAGES, PARTITIONS, RULES_BY_VERSION

_RULES = RULES_BY_VERSION[1]


class ChainMachine(RuleBasedStateMachine):
    """One partition: an owner, and a zombie that stores what it decided from any earlier position."""

    @initialize(weak=st.booleans())
    def begin(self, weak: bool) -> None:
        codec.use_weak_hashes(weak)

    def __init__(self) -> None:
        super().__init__()
        self.seams = seams.driven()
        self.seams.__enter__()
        self.log, self.tables = EventLog(), Tables()
        self.stored: deque[Decided] = deque()
        self.committed, self.committed_figures = 0, Figures()
        self.next_offset, self.figures = 0, Figures()
        self.index, self.pending = CommittedIndex(), Pending()

    def teardown(self) -> None:
        self.seams.__exit__(None, None, None)

    # -- what happens --------------------------------------------------------------------------------------------

    @rule(picks=st.lists(st.integers(0, len(MESSAGES[0]) - 1), min_size=1, max_size=6), void=st.booleans())
    def records_arrive(self, picks: list[int], void: bool) -> None:
        for pick in picks:
            self.log.append(0, MESSAGES[0][pick])
        if void:
            self.log.partitions[0].append(None)

    @rule(pick=st.integers(0, len(MESSAGES[1]) - 1))
    def a_misrouted_record_arrives(self, pick: int) -> None:
        self.log.append(0, MESSAGES[1][pick])

    @precondition(lambda self: self.next_offset < len(self.log.partitions[0]))
    @rule(data=st.data())
    def a_range_is_decided(self, data: st.DataObject) -> None:
        span = self.span(self.next_offset, data)
        decided = self.decided(span, self.index, self.pending, self.figures)
        self.next_offset, self.figures = int(span.to_offset), decided.figures
        self.pending.add(decided)
        self.stored.append(decided)

    @precondition(lambda self: bool(self.stored))
    @rule()
    def the_oldest_range_is_stored_and_acknowledged(self) -> None:
        decided = self.stored.popleft()
        self.tables.insert(admitted_rows([decided]), reject_rows([decided]))
        self.pending.acknowledge(decided, self.index)
        self.committed, self.committed_figures = int(decided.span.to_offset), decided.figures

    @precondition(lambda self: bool(self.stored))
    @rule(data=st.data())
    def the_oldest_range_is_stored_in_part(self, data: st.DataObject) -> None:
        rows = admitted_rows([self.stored[0]])
        self.tables.insert([row for row in rows if data.draw(st.booleans(), "arrives")], ())

    @precondition(lambda self: bool(self.stored))
    @rule(data=st.data())
    def the_owner_dies_within_an_insert(self, data: st.DataObject) -> None:
        self.the_oldest_range_is_stored_in_part(data)
        self.the_owner_is_another_one()

    @rule()
    def the_owner_is_another_one(self) -> None:
        self.stored.clear()
        self.pending = Pending()
        self.index = self.rebuilt(self.committed)
        self.next_offset, self.figures = self.committed, self.committed_figures

    @precondition(lambda self: bool(self.log.partitions[0]))
    @rule(data=st.data())
    def a_zombie_stores_an_old_range_cut_elsewhere(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self.committed), "from")
        if start == len(self.log.partitions[0]):
            return
        before = expected(0, self.log.partitions[0], [(0, 1)]).figures[start]
        decided = self.decided(self.span(start, data), self.rebuilt(start), Pending(), before)
        self.tables.insert(admitted_rows([decided]), reject_rows([decided]))

    # -- what the consumer does ------------------------------------------------------------------------------------

    def span(self, start: int, data: st.DataObject) -> Span:
        end = data.draw(st.integers(start + 1, len(self.log.partitions[0])), "to")
        records = tuple(record for record in self.log.partitions[0][start:] if record is not None)
        whole = len(self.log.partitions[0])
        span = Span(Epoch(1), Partition(0), Offset(start), Offset(whole), Records.of(records))
        span = cut_at(span, end) if end < whole else span
        if len(span.records) > 1 and data.draw(st.booleans(), "cut to fit a delta"):
            return shorter(span, data.draw(st.integers(1, len(span.records) - 1), "records kept"))
        return span

    def decided(self, span: Span, index: CommittedIndex, pending: Pending, before: Figures) -> Decided:
        readings = read(span, _RULES, PARTITIONS)
        confirmed = self.tables.confirm(suspects(readings, index, pending).hashes, None)
        return decide(readings, _RULES, pending, confirmed, before)

    def rebuilt(self, offset: int) -> CommittedIndex:
        index = CommittedIndex()
        self.tables.held_below(1, 0, offset, None, index.add)
        return index

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def verdicts_are_those_of_the_log(self) -> None:
        model = expected(0, self.log.partitions[0], [(0, 1)])
        assert self.figures == model.figures[self.next_offset]
        assert self.committed_figures == model.figures[self.committed]
        for (*_, offset), row in self.tables.events.items():
            assert model.rows.get(offset) == row
        for (*_, offset), reject in self.tables.rejects.items():
            assert model.rejects.get(offset) == reject
        below = [offset for offset in model.rows if offset < self.committed]
        assert all((1, 0, offset) in self.tables.events for offset in below)


TestChain = ChainMachine.TestCase
TestChain.settings = unhurried(examples=100, steps=30)
