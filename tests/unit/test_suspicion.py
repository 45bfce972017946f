"""A read that shows fewer keys of a hash than the index counts lags, whatever else it shows."""

from __future__ import annotations

import numpy as np

from metering.index import CommittedIndex
from metering.ranges import Claim
from metering.suspicion import Suspicion, lacking
from meterline_schemas.key import partition_of
from meterline_schemas.types import Epoch, Micros, Offset, Partition

EPOCH, PARTITION, PARTITIONS, STORED = 2, 1, 4, 100
OURS, THEIRS = (
    next(key for key in (f"{n}".encode() for n in range(99)) if (partition_of(key, PARTITIONS) == PARTITION) is ours)
    for ours in (True, False)
)
"""Keys that lead to our partition, and elsewhere."""


def claim(offset: int, hashed: int, epoch: int = EPOCH, partition: int = PARTITION) -> Claim:
    return Claim(epoch, partition, offset, "t", Micros(1), "usage", b"", 0, hashed)


def suspicion(*held: int) -> Suspicion:
    hashes = np.array(held, dtype=np.uint64)
    return Suspicion(Epoch(EPOCH), Partition(PARTITION), PARTITIONS, Offset(STORED), CommittedIndex(hashes), np.unique(hashes))


def test_a_hash_of_which_no_row_is_shown_lacks_one() -> None:
    assert suspicion(7, 8).lacking({b"a": claim(1, 7)}) == [8]


def test_one_of_two_keys_with_a_hash_is_not_enough_and_both_are() -> None:
    two = suspicion(7, 7)
    assert two.lacking({b"a": claim(1, 7)}) == [7]
    assert two.lacking({b"a": claim(1, 7), b"b": claim(2, 7)}) == []


def test_rows_that_the_index_does_not_count_do_not_stand_in_for_those_that_it_does() -> None:
    two = suspicion(7, 7)
    shown = {b"a": claim(1, 7)}
    assert two.lacking(shown | {b"b": claim(STORED, 7)}) == [7], "of a range that is not acknowledged"
    assert two.lacking(shown | {b"b": claim(2, 7, partition=0)}) == [7], "of another partition"
    assert two.lacking(shown | {b"b": claim(STORED - 1, 7)}) == []
    assert two.lacking(shown | {OURS: claim(500, 7, epoch=1, partition=3)}) == [], "inherited from an older epoch"
    assert two.lacking(shown | {THEIRS: claim(500, 7, epoch=1, partition=3)}) == [7], "left to another partition"


def test_a_row_more_than_the_index_counts_is_a_collision_and_no_lag() -> None:
    assert suspicion(7).lacking({b"a": claim(1, 7), b"b": claim(2, 7)}) == []


def test_what_any_partition_lacks_is_lacking() -> None:
    assert lacking([suspicion(7), suspicion(7, 7), suspicion(9)], {b"a": claim(1, 7)}) == [7, 9]
    assert lacking([], {}) == []


def test_what_is_at_hand_settles_a_hash_only_where_it_shows_all_of_its_keys() -> None:
    three = suspicion(7, 7, 8, 9)
    assert three.beyond({}).hashes.tolist() == [7, 8, 9]
    left = three.beyond({b"a": claim(1, 7), b"b": claim(2, 8)})
    assert left.hashes.tolist() == [7, 9]
    assert left.lacking({b"a": claim(1, 7)}) == [7, 9], "what is asked has to show all of it, whatever is at hand"
    assert three.beyond({b"a": claim(1, 7), b"c": claim(3, 7), b"b": claim(2, 8), b"d": claim(4, 9)}).hashes.tolist() == []
