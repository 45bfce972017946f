"""T2: the index holds exactly what was added, however it came."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from metering.index import CommittedIndex, Hashes
from tests.simulation.unhurried import unhurried

_MAX64 = (1 << 64) - 1

# Few values, their neighbours and the ends of the range: hits, near misses and repeats.
hashes = st.lists(st.one_of(st.integers(0, 40), st.integers(_MAX64 - 20, _MAX64), st.integers(0, _MAX64)), max_size=40)


class IndexMachine(RuleBasedStateMachine):
    """The model is a set."""

    @initialize(first=hashes)
    def rebuilt(self, first: list[int]) -> None:
        self.index, self.model = CommittedIndex(_array(first)), set(first)

    @rule(added=hashes)
    def a_range_is_acknowledged(self, added: list[int]) -> None:
        given = _array(added)
        self.index.add(given)
        self.model |= set(added)
        assert given.tolist() == added, "the caller's array was changed"

    @rule(asked=hashes)
    def hashes_are_looked_up(self, asked: list[int]) -> None:
        assert self.index.hits(_array(asked)).tolist() == [one in self.model for one in asked]

    @rule()
    def everything_is_found_again(self) -> None:
        assert self.index.hits(_array(sorted(self.model))).all()
        assert len(self.index) >= len(self.model)


def _array(values: list[int]) -> Hashes:
    return np.array(values, dtype=np.uint64)


TestIndex = IndexMachine.TestCase
TestIndex.settings = unhurried(examples=40, steps=25)
