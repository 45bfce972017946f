"""Sorted runs of uint64 with a radix directory each: what the committed index is made of.

A run covers hashes of [first, first + 2**width). Its directory cuts that span in equal buckets and says where in the
sorted keys each begins; hashes are spread evenly, so a look-up is one step into the directory and some five within a
bucket, whatever the size. A skewed run costs more steps, the logarithm of its fullest bucket, and stays right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Keeper = Callable[[Hashes], Hashes]
"""Takes sorted keys that will not change, and returns them where they are to be kept: in memory, or mapped from a file."""

GROUPING_BITS = 16
"""Needles are grouped by this many top bits, so that a part of a level finds its own in one slice."""

_KEYS_A_BUCKET = 6
_FEW = 1 << 10
"""A run of so few keys has no directory: a binary search is as quick, and making one would cost more."""
_NO_OFFSETS = np.empty(0, dtype=np.uint32)


def in_memory(keys: Hashes) -> Hashes:
    """The Keeper of an index that nobody bounds."""
    return keys


def grouped(hashes: Hashes) -> NDArray[np.intp]:
    """An order that groups by the top bits: a radix sort of 16 bits, a fifth of what a whole sort costs."""
    return np.argsort((hashes >> np.uint64(64 - GROUPING_BITS)).astype(np.uint16), kind="stable")


def in_order(hashes: Hashes) -> Hashes:
    """A sorted copy. Many are grouped first: the rest of the work is then in the nearest cache."""
    if len(hashes) <= _FEW:
        return np.sort(hashes)
    return np.sort(hashes.take(grouped(hashes)), kind="stable")


@dataclass(frozen=True, slots=True)
class Run:
    """Sorted keys, equal ones side by side. Never changed; a merge makes another."""

    first: int
    width: int
    keys: Hashes
    offsets: NDArray[np.uint32]
    """Where each bucket begins in `keys`; one more for the end."""
    shift: int
    steps: int

    def places(self, needles: Hashes) -> NDArray[np.int64]:
        """The place of the first key that is not below each needle; needles must lie within the run's span."""
        if len(self.keys) <= _FEW:
            return np.searchsorted(self.keys, needles)
        bucket = ((needles - np.uint64(self.first)) >> np.uint64(self.shift)).view(np.int64)
        places: NDArray[np.int64] = self.offsets.take(bucket).astype(np.int64)
        for step in range(self.steps - 1, -1, -1):
            # Clipped, so that the window of the last buckets ends with the keys.
            below = self.keys.take(places + ((1 << step) - 1), mode="clip") < needles
            places = places + (below.astype(np.int64) << step)
        return places

    def counts(self, needles: Hashes) -> NDArray[np.int64]:
        """How many times each needle is held."""
        if not len(self.keys):
            return np.zeros(len(needles), dtype=np.int64)
        places = self.places(needles)
        found: NDArray[np.int64] = (self.keys.take(places, mode="clip") == needles).astype(np.int64)
        again = np.flatnonzero(found)
        while len(again):
            nexts = places[again] + found[again]
            again = again[(nexts < len(self.keys)) & (self.keys.take(nexts, mode="clip") == needles[again])]
            found[again] += 1
        return found

    def between(self, first: int, end: int) -> Hashes:
        """The keys of [first, end), without a copy."""
        low, high = (self._place(bound) for bound in (first, end))
        return self.keys[low:high]

    def _place(self, bound: int) -> int:
        return len(self.keys) if bound >= 1 << 64 else int(np.searchsorted(self.keys, np.uint64(bound)))


def runs_of(keys: Hashes, keys_max: int, keep: Keeper, first: int = 0, width: int = 64) -> list[Run]:
    """Sorted keys as runs that cover the span, cut until each holds `keys_max` or spans one group."""
    if len(keys) <= keys_max or width <= 64 - GROUPING_BITS:
        return [_run_of(keys, keep, first, width)]
    middle = first + (1 << (width - 1))
    cut = int(np.searchsorted(keys, np.uint64(middle)))
    # Copies, for a part that is replaced must not be held by its neighbour.
    low, high = keys[:cut].copy(), keys[cut:].copy()
    return runs_of(low, keys_max, keep, first, width - 1) + runs_of(high, keys_max, keep, middle, width - 1)


def _run_of(keys: Hashes, keep: Keeper, first: int, width: int) -> Run:
    if len(keys) <= _FEW:
        return Run(first, width, keep(keys), _NO_OFFSETS, 0, 0)
    bits = _bits(len(keys), width)
    return _made(first, width, keep(keys), bits, _spread(keys, first, width, bits))


def merged(run: Run, keys: Hashes, keys_max: int, keep: Keeper) -> list[Run]:
    """The run with sorted keys of its span added, cut as `runs_of` cuts. Blocks 5 to 10 ns a key."""
    together = np.sort(np.concatenate((run.keys, keys)), kind="stable")
    if len(together) > keys_max and run.width > 64 - GROUPING_BITS:
        return runs_of(together, keys_max, keep, run.first, run.width)
    bits = _bits(len(together), run.width)
    if len(run.offsets) != (1 << bits) + 1:
        return [_run_of(together, keep, run.first, run.width)]
    counted = np.diff(run.offsets) + _spread(keys, run.first, run.width, bits)
    return [_made(run.first, run.width, keep(together), bits, counted)]


def _bits(keys: int, width: int) -> int:
    return min(width, max(1, (keys // _KEYS_A_BUCKET).bit_length() - 1))


def _spread(keys: Hashes, first: int, width: int, bits: int) -> NDArray[np.intp]:
    """How many keys each bucket gets."""
    buckets = ((keys - np.uint64(first)) >> np.uint64(width - bits)).view(np.int64)
    return np.bincount(buckets, minlength=1 << bits)


def _made(first: int, width: int, keys: Hashes, bits: int, counted: NDArray[Any]) -> Run:
    offsets = np.zeros(len(counted) + 1, dtype=np.uint32)
    np.cumsum(counted, out=offsets[1:])
    return Run(first, width, keys, offsets, width - bits, int(counted.max()).bit_length())


def held(parts: Sequence[Run]) -> int:
    """Keys in them."""
    return sum(len(part.keys) for part in parts)
