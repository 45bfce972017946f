"""T2: the index holds exactly what was added, as often as it was added, however it came and whatever is being merged."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from metering.index import CommittedIndex, Hashes, Sizes
from tests.simulation.unhurried import unhurried

_MAX64 = (1 << 64) - 1
_PART_OF_A_LEVEL = 1 << 48
"""The narrowest span that a part may have."""

# Few values, their neighbours, the ends of the range and of its parts: hits, near misses and repeats.
_one = st.one_of(
    st.integers(0, 40),
    st.integers(_MAX64 - 20, _MAX64),
    st.builds(lambda part, beside: (part * _PART_OF_A_LEVEL + beside) & _MAX64, st.integers(0, 1 << 16), st.integers(-1, 1)),
    st.integers(0, _MAX64),
)
_hashes = st.lists(_one, max_size=40)

# So small that 40 keys reach the third level and a merge takes many calls.
_sizes = st.builds(
    Sizes,
    smallest_level=st.sampled_from([2, 8]),
    growth=st.sampled_from([2, 4]),
    at_once_max=st.sampled_from([1, 8, 64]),
    part_max=st.sampled_from([1, 4, 16]),
    credit=st.sampled_from([1, 6, 100]),
)


class IndexMachine(RuleBasedStateMachine):
    """The model is a multiset."""

    # A run of few keys has no directory; here one of a single key may have one.
    @initialize(first=_hashes, sizes=_sizes, few=st.sampled_from([0, 1 << 10]))
    def rebuilt(self, first: list[int], sizes: Sizes, few: int) -> None:
        self.patched = patch("metering.runs._FEW", few)
        self.patched.start()
        self.index, self.model = CommittedIndex(_array(first), self.keep, sizes), Counter(first)

    def teardown(self) -> None:
        if hasattr(self, "patched"):
            self.patched.stop()

    def keep(self, keys: Hashes) -> Hashes:
        assert (keys[1:] >= keys[:-1]).all(), "keys to be kept are not sorted"
        elsewhere = keys.copy()
        elsewhere.flags.writeable = False
        return elsewhere

    @rule(added=_hashes)
    def a_range_is_acknowledged(self, added: list[int]) -> None:
        given = _array(added)
        self.index.add(given)
        self.model.update(added)
        assert given.tolist() == added, "the caller's array was changed"

    @rule(one=_one, times=st.integers(1, 30))
    def one_hash_comes_again_and_again(self, one: int, times: int) -> None:
        self.a_range_is_acknowledged([one] * times)

    @rule()
    def merges_are_ended(self) -> None:
        self.index.settle()

    @rule(asked=_hashes)
    def hashes_are_looked_up(self, asked: list[int]) -> None:
        assert self.index.counts(_array(asked)).tolist() == [self.model[one] for one in asked]
        assert self.index.hits(_array(asked)).tolist() == [self.model[one] > 0 for one in asked]

    @rule()
    def everything_is_found_again(self) -> None:
        known = sorted(self.model)
        assert self.index.counts(_array(known)).tolist() == [self.model[one] for one in known]
        assert len(self.index) == self.model.total()


def _array(values: list[int]) -> Hashes:
    return np.array(values, dtype=np.uint64)


TestIndex = IndexMachine.TestCase
TestIndex.settings = unhurried(examples=40, steps=25)


def test_each_call_merges_a_bounded_part_and_the_whole_takes_less_than_nine_bytes_a_key() -> None:
    sizes = Sizes(smallest_level=1 << 10, at_once_max=1 << 13, part_max=1 << 13)
    asked: list[int] = []

    def keep(keys: Hashes) -> Hashes:
        asked.append(len(keys))
        return keys

    random = np.random.default_rng(5)
    index = CommittedIndex(keep=keep, sizes=sizes)
    added = random.integers(0, 2**64, 400_000, dtype=np.uint64)
    for start in range(0, len(added), 500):
        asked.clear()
        index.add(added[start : start + 500])
        # Its credit, and the part that it was about to merge: twice, for two levels may be at it at once.
        assert sum(asked) <= 2 * (sizes.credit * 500 + 3 * sizes.part_max)
        assert index.bytes_held <= 9 * (len(index) + 2 * sizes.part_max)
    assert len(index) == len(added)
    assert (index.counts(added) == 1).all()
    assert not index.hits(random.integers(0, 2**64, 100_000, dtype=np.uint64)).any()


def test_hashes_that_crowd_in_one_place_are_found_all_the_same() -> None:
    # As somebody might choose them who knows the hash: all within one group, where no part can be cut.
    crowd = np.arange(50_000, dtype=np.uint64) + np.uint64(7 << 50)
    index = CommittedIndex(sizes=Sizes(smallest_level=1 << 8, at_once_max=1 << 9, part_max=1 << 9))
    for start in range(0, len(crowd), 700):
        index.add(crowd[start : start + 700])
    assert (index.counts(crowd) == 1).all()
    assert not index.hits(np.array([crowd[0] - 1, crowd[-1] + 1, 0, _MAX64], dtype=np.uint64)).any()
