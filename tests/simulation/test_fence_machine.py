"""T2: whatever deltas arrive, in whatever order and however cut, the counters are the sum of the rows below the fence."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from metering.fence import FenceAction, FiguresDisagree, action, check_continues, explains
from meterline_schemas.delta import HASH_MODULUS, Delta, DeltaLine, Figures, Lines, decode_delta, encode_delta
from meterline_schemas.types import Epoch, Micros, Offset, Partition, TenantId, UsageType
from tests.simulation.unhurried import unhurried

_LARGEST = 999_999_999_999_999_999

Verdict = tuple[str, int, int]
"""Of one offset: the verdict, and the quantity and row hash of an admitted row."""

verdicts: st.SearchStrategy[Verdict] = st.one_of(
    st.tuples(st.just("admitted"), st.sampled_from([1, 7, -3, _LARGEST]), st.integers(1, HASH_MODULUS - 1)),
    st.tuples(st.sampled_from(["duplicate", "conflict", "invalid", "void"]), st.just(0), st.just(0)),
)


class FenceMachine(RuleBasedStateMachine):
    """The model: a verdict an offset, and the total of what lies below the fence. ClickHouse shows rows late."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Verdict] = []
        self.shown: set[int] = set()
        self.fence_at = 0
        self.fence = Figures()
        self.counted = (0, 0)

    def figures(self, offset: int) -> Figures:
        below = self.log[:offset]
        counts = {verdict: sum(1 for found, _, _ in below if found == verdict) for verdict in _COUNTED}
        return Figures(**counts, hash_sum=sum(hashed for _, _, hashed in below) % HASH_MODULUS)

    def total(self, start: int, end: int) -> tuple[int, int]:
        rows = [quantity for verdict, quantity, _ in self.log[start:end] if verdict == "admitted"]
        return sum(rows), len(rows)

    def delta(self, start: int, end: int) -> Delta:
        quantity, events = self.total(start, end)
        line = DeltaLine(TenantId("t"), UsageType("u"), "2026-09-21", Micros(quantity), events)
        lines = (line,) if events else ()
        return Delta(Epoch(1), Partition(0), Offset(start), Offset(end), 1, lines, self.figures(end))

    # -- what happens --------------------------------------------------------------------------------------------

    @rule(added=st.lists(verdicts, min_size=1, max_size=12))
    def the_log_grows(self, added: list[Verdict]) -> None:
        self.log += added

    @precondition(lambda self: bool(self.log))
    @rule(data=st.data())
    def clickhouse_shows_more(self, data: st.DataObject) -> None:
        self.shown |= data.draw(st.sets(st.integers(0, len(self.log) - 1)), "shown")

    @precondition(lambda self: bool(self.log))
    @rule()
    def clickhouse_shows_everything(self) -> None:
        self.shown = set(range(len(self.log)))

    @precondition(lambda self: bool(self.log))
    @rule(data=st.data(), continues=st.booleans())
    def a_delta_arrives(self, data: st.DataObject, continues: bool) -> None:
        start = self.fence_at if continues else data.draw(st.integers(0, len(self.log) - 1), "from")
        assume(start < len(self.log))
        end = data.draw(st.integers(start + 1, len(self.log)), "to")
        self.count(self.delta(start, end))

    @precondition(lambda self: self.fence_at < len(self.log))
    @rule(data=st.data())
    def a_delta_that_lies_about_its_events_is_not_added(self, data: st.DataObject) -> None:
        end = data.draw(st.integers(self.fence_at + 1, len(self.log)), "to")
        right = self.delta(self.fence_at, end)
        admitted = right.cumulative.admitted
        field = data.draw(st.sampled_from(_COUNTED), "field")
        lie = data.draw(st.sampled_from([-1, 1, 5]), "lie")
        wrong = replace(right.cumulative, **{field: getattr(right.cumulative, field) + lie})
        assume(getattr(wrong, field) >= 0 and (field != "admitted" or wrong.admitted != admitted))
        try:
            check_continues(replace(right, cumulative=wrong), self.fence)
        except FiguresDisagree:
            return
        raise AssertionError(f"{wrong} was taken for {right.cumulative}")

    @precondition(lambda self: self.fence_at < len(self.log))
    @rule(data=st.data())
    def the_reconciler_repairs(self, data: st.DataObject) -> None:
        end = data.draw(st.integers(1, len(self.log)), "committed")
        if end > self.fence_at:
            self.recompute(end, self.figures(end))

    # -- what the aggregator does --------------------------------------------------------------------------------

    def count(self, sent: Delta) -> None:
        delta = decode_delta(encode_delta(sent))
        todo = action(delta, self.fence_at)
        if todo is FenceAction.SKIP:
            assert delta.to_offset <= self.fence_at
        elif todo is FenceAction.ADD:
            check_continues(delta, self.fence)
            self.move(delta.to_offset, delta.cumulative, delta.lines)
        else:
            self.recompute(delta.to_offset, delta.cumulative)

    def recompute(self, end: int, target: Figures) -> None:
        rows = [self.log[at] for at in range(self.fence_at, end) if at in self.shown and self.log[at][0] == "admitted"]
        quantity, hash_sum = sum(row[1] for row in rows), sum(row[2] for row in rows) % HASH_MODULUS
        complete = all(at in self.shown or self.log[at][0] != "admitted" for at in range(self.fence_at, end))
        assert explains(len(rows), hash_sum, self.fence, target) is complete
        if complete:
            # As many rows, but one of them another; and one row more that its hash would not show.
            assert not explains(len(rows), (hash_sum + 1) % HASH_MODULUS, self.fence, target)
            assert not explains(len(rows) + 1, hash_sum, self.fence, target)
            line = DeltaLine(TenantId("t"), UsageType("u"), "2026-09-21", Micros(quantity), len(rows))
            self.move(end, target, (line,))

    def move(self, end: int, figures: Figures, lines: Lines) -> None:
        assert end > self.fence_at
        self.fence_at, self.fence = end, figures
        quantity, events = self.counted
        self.counted = quantity + sum(line.quantity for line in lines), events + sum(line.events for line in lines)

    @invariant()
    def the_counters_are_the_rows_below_the_fence(self) -> None:
        assert self.counted == self.total(0, self.fence_at)
        assert self.fence == self.figures(self.fence_at)
        assert self.fence.offsets == self.fence_at


_COUNTED = ("admitted", "duplicate", "conflict", "invalid", "void")

TestFence = FenceMachine.TestCase
TestFence.settings = unhurried(examples=60, steps=30)
