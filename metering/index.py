"""C of `docs/exactness.md`: the hashes of every key whose row is acknowledged.

A hit is a suspicion, never a verdict: the consumer confirms it against the full key. Nothing is ever evicted, for an
event may be sent again after any time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metering.runs import GROUPING_BITS, Hashes, Keeper, Run, grouped, held, in_memory, in_order, merged, runs_of

__all__ = ["CommittedIndex", "Hashes", "Keeper", "Sizes", "in_memory"]


@dataclass(frozen=True)
class Sizes:
    """How an index is laid out, in keys. The defaults keep every call short at any size; tests make it small."""

    smallest_level: int = 1 << 14
    growth: int = 8
    """Each level holds so many times the one before."""
    at_once_max: int = 1 << 20
    """Levels up to this size are merged within the call that fills them; it takes some 5 ms."""
    part_max: int = 1 << 20
    """Larger levels are merged a part at a time; a part is cut in two when it has grown past this."""
    credit: int = 24
    """Keys that a merge may move on for each key added. It needs `growth` + 1 to end before the next one begins."""

    def of_level(self, number: int) -> int:
        return self.smallest_level * int(self.growth**number)


class CommittedIndex:
    """A multiset of hashes: levels of sorted runs, each eight times the one before, merged a part at a time.

    n keys take 8.3 to 8.7 bytes each; while levels are merged, a part's size more. A look-up asks log8(n) levels. `add`
    never stalls: of a level that overflows, each call merges as many parts into the next level as its own keys pay for.
    What is kept long goes through `keep`, which may put it on disk.

    Only the deciding thread may touch it.
    """

    def __init__(self, hashes: Hashes | None = None, keep: Keeper = in_memory, sizes: Sizes = Sizes()) -> None:
        self._keep, self._sizes = keep, sizes
        self._levels: list[_Level] = []
        if hashes is not None:
            self.add(hashes)
            self.settle()

    def __len__(self) -> int:
        return sum(held(level.parts) + (level.arriving.left if level.arriving else 0) for level in self._levels)

    @property
    def bytes_held(self) -> int:
        """Of keys and directories, on disk or in memory."""
        runs = [run for level in self._levels for run in (*level.parts, *(level.arriving.source if level.arriving else ()))]
        return sum(run.keys.nbytes + run.offsets.nbytes for run in runs)

    def add(self, hashes: Hashes) -> None:
        """Adds keys, present ones too (a collision of two admitted keys).

        Blocks some 30 ms at most for 100,000 keys. Raises what `keep` raises; the index is of no use then.
        """
        if not len(hashes):
            return
        number = 0
        while len(hashes) > self._sizes.of_level(number) // 2:
            number += 1
        keys = in_order(hashes.astype(np.uint64, copy=False))
        self._bring(runs_of(keys, self._sizes.part_max, self._keeper(number)), number)
        for level in self._levels:
            level.go_on(self._sizes.credit * len(hashes))

    def copy(self) -> CommittedIndex:
        """Another index of the same keys, at once: the runs are shared, and never changed."""
        self.settle()
        other = CommittedIndex(keep=self._keep, sizes=self._sizes)
        for number, level in enumerate(self._levels):
            other._levels.append(_Level(self._sizes.part_max, self._keeper(number)))
            other._levels[number].parts = list(level.parts)
        return other

    def settle(self) -> None:
        """Ends the merges that are under way. Blocks 5 to 10 ns a key of the levels concerned."""
        for level in self._levels:
            level.finish()

    def counts(self, hashes: Hashes) -> NDArray[np.int64]:
        """How many times each of `hashes` was added, in their order."""
        found = np.zeros(len(hashes), dtype=np.int64)
        if not len(hashes):
            return found
        if all(level.is_one_run for level in self._levels):
            for level in self._levels:
                found += level.parts[0].counts(hashes)
            return found
        order = grouped(hashes)
        needles = hashes.take(order)
        tops = (needles >> np.uint64(64 - GROUPING_BITS)).astype(np.int64)
        of_needles = np.zeros(len(hashes), dtype=np.int64)
        for level in self._levels:
            level.count(needles, tops, of_needles)
        found[order] = of_needles
        return found

    def hits(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of `hashes` are held, in their order."""
        return self.counts(hashes) > 0

    def _bring(self, source: list[Run], number: int) -> None:
        """Has a level take the keys of a source; first it hands down what it has, where both are too much for it."""
        while len(self._levels) <= number:
            self._levels.append(_Level(self._sizes.part_max, self._keeper(len(self._levels))))
        level = self._levels[number]
        level.finish()
        size = held(level.parts)
        if size and size + held(source) > self._sizes.of_level(number):
            handed_down, level.parts = level.parts, _nothing()
            self._bring(handed_down, number + 1)
            size = 0
        if not size:
            level.parts = source
            return
        level.arriving = _Arriving(source)
        if self._sizes.of_level(number) <= self._sizes.at_once_max:
            level.finish()

    def _keeper(self, number: int) -> Keeper:
        """Small levels are made anew too often to be worth a file."""
        return in_memory if self._sizes.of_level(number) <= self._sizes.at_once_max else self._keep


class _Arriving:
    """Keys on their way into a level: everything below `cursor` is there already."""

    def __init__(self, source: list[Run]) -> None:
        self.source = source
        self.left = held(source)
        self.cursor = 0
        self.credit = 0

    @property
    def ended(self) -> bool:
        return self.cursor == 1 << 64

    def take(self, end: int) -> Hashes:
        """The keys from the cursor to `end`, which is the new cursor."""
        pieces = [run.between(self.cursor, end) for run in self.source if run.first < end]
        self.cursor = end
        self.source = [run for run in self.source if run.first + (1 << run.width) > end]
        found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        self.left -= len(found)
        return found


class _Level:
    """Parts that cover all hashes, in order, and the keys that are being merged into them."""

    def __init__(self, part_max: int, keep: Keeper) -> None:
        self._part_max, self._keep = part_max, keep
        self.parts: list[Run] = _nothing()
        self.arriving: _Arriving | None = None

    @property
    def is_one_run(self) -> bool:
        return self.arriving is None and len(self.parts) == 1

    def go_on(self, credit: int) -> None:
        """Merges as many parts as `credit` keys pay for, and what an earlier call left over."""
        arriving = self.arriving
        if arriving is None:
            return
        arriving.credit += credit
        while arriving.credit > 0 and not arriving.ended:
            self._merge_one(arriving)

    def finish(self) -> None:
        """Merges all that is left."""
        arriving = self.arriving
        while arriving is not None and not arriving.ended:
            self._merge_one(arriving)

    def count(self, needles: Hashes, tops: NDArray[np.int64], found: NDArray[np.int64]) -> None:
        """Adds to `found` how many times each needle is held. Needles are grouped by `tops`, their top bits."""
        _count(self.parts, needles, tops, found)
        if self.arriving is not None:
            begin = int(np.searchsorted(tops, self.arriving.cursor >> (64 - GROUPING_BITS)))
            _count(self.arriving.source, needles[begin:], tops[begin:], found[begin:])

    def _merge_one(self, arriving: _Arriving) -> None:
        place = next(place for place, part in enumerate(self.parts) if part.first >= arriving.cursor)
        part = self.parts[place]
        keys = arriving.take(part.first + (1 << part.width))
        if len(keys):
            self.parts[place : place + 1] = merged(part, keys, self._part_max, self._keep)
        arriving.credit -= len(part.keys) + len(keys)
        if arriving.ended:
            self.arriving = None


def _count(parts: list[Run], needles: Hashes, tops: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    firsts = [part.first >> (64 - GROUPING_BITS) for part in parts]
    begins = np.searchsorted(tops, firsts).tolist()
    ends = [*begins[1:], len(tops)]
    for part, begin, end in zip(parts, begins, ends, strict=True):
        if begin < end:
            found[begin:end] += part.counts(needles[begin:end])


def _nothing() -> list[Run]:
    return runs_of(np.empty(0, dtype=np.uint64), 0, in_memory)
