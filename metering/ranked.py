"""Admitted rows with the hashes of their keys in order: found by hash, and compared by column.

Most records whose key is known repeat its row byte by byte: whoever got no answer sent again. Telling these apart from the
rest a column at a time costs 0.2 us each, where looking at them one by one costs 4.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metering import texts
from metering.columns import Columns
from metering.index import Hashes
from metering.records import Integers

_COMPARED_TEXTS: Final = ("key", "tenant_id", "corrects")
"""Beside the quantity and the hash of the bytes: what is equal in a record that says nothing new. The kind follows from
`corrects`, which exactly a correction has."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Rows of one partition; `order` says which of them has each of the sorted `hashes`."""

    hashes: Hashes
    order: Integers
    rows: Columns

    @classmethod
    def of(cls, rows: Columns) -> Ranked:
        """Equal hashes by the rows' places."""
        order = rows.key_hash.argsort(kind="stable")
        return cls(rows.key_hash[order], order, rows)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, hashes: Hashes) -> Integers:
        """The rows that have one of these hashes, each of which stands once."""
        firsts = np.searchsorted(self.hashes, hashes)
        hit = _equal_at(self.hashes, firsts, hashes)
        firsts, hashes = firsts[hit], hashes[hit]
        found = np.searchsorted(self.hashes, hashes, side="right") - firsts
        begins = np.repeat(found.cumsum() - found, found)
        rows: Integers = self.order[np.repeat(firsts, found) + np.arange(len(begins)) - begins]
        return rows

    def find_alone(self, hashes: Hashes) -> tuple[Integers, Integers]:
        """Of these hashes, which may stand many times, those that one row has alone: their places, and the row of each."""
        firsts = np.searchsorted(self.hashes, hashes)
        places = np.flatnonzero(_equal_at(self.hashes, firsts, hashes) & ~_equal_at(self.hashes, firsts + 1, hashes))
        return places, self.order[firsts[places]]


def held(sorted_hashes: Hashes, hashes: Hashes) -> NDArray[np.bool_]:
    """Which of `hashes` are among the sorted ones."""
    return _equal_at(sorted_hashes, np.searchsorted(sorted_hashes, hashes), hashes)


def repeated(columns: Columns, rows: Integers, older: Iterable[Ranked]) -> NDArray[np.bool_]:
    """Of these rows of a partition, which repeat byte by byte an earlier row of the same partition that was admitted.

    `rows` are ordered by hash, `older` are rows of the partition. Such a record is a duplicate that nobody needs to see,
    whatever else has its hash: its key is the row's, and a key is admitted once. A record is compared with one row of each
    of the older at most: where several have its hash it may repeat one of them and not be found, for whoever makes hashes
    collide must not make as many comparisons as there are pairs.
    """
    found = np.zeros(len(rows), dtype=bool)
    hashes = columns.key_hash[rows]
    for one in older:
        places, holders = one.find_alone(hashes)
        if len(places):
            found[places[_same(columns, rows[places], one.rows, holders)]] = True
    return found


def _same(columns: Columns, rows: Integers, others: Columns, holders: Integers) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = others.offset[holders] < columns.offset[rows]
    same &= others.row_hash[holders] == columns.row_hash[rows]
    same &= others.micros[holders] == columns.micros[rows]
    for name in _COMPARED_TEXTS:
        same &= texts.equal(texts.take(getattr(columns, name), rows), texts.take(getattr(others, name), holders))
    return same


def _equal_at(sorted_hashes: Hashes, places: Integers, hashes: Hashes) -> NDArray[np.bool_]:
    if not len(sorted_hashes):
        return np.zeros(len(hashes), dtype=bool)
    equal: NDArray[np.bool_] = (sorted_hashes.take(places, mode="clip") == hashes) & (places < len(sorted_hashes))
    return equal
