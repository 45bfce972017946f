"""C of `docs/exactness.md`: the hashes of every key whose row is acknowledged, as sorted runs.

A hit is a suspicion, never a verdict: the consumer confirms it against the full key. Nothing is ever evicted, for an
event may be sent again after any time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


class CommittedIndex:
    """Sorted runs of uint64 that grow geometrically, so that n keys cost O(n log n) merging and 8 bytes each.

    Only the deciding thread may touch it.
    """

    def __init__(self, hashes: Hashes | None = None) -> None:
        self._runs: list[Hashes] = []
        if hashes is not None and len(hashes):
            self._runs.append(np.sort(hashes.astype(np.uint64, copy=False)))

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, hashes: Hashes) -> None:
        """Adds keys, present ones too (a collision of two admitted keys)."""
        if not len(hashes):
            return
        run = np.sort(hashes.astype(np.uint64, copy=False))
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate((self._runs.pop(), run)), kind="stable")
        self._runs.append(run)

    def hits(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of `hashes` are held, in their order."""
        found = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes)
            places[places == len(run)] = 0
            found |= run[places] == hashes
        return found
