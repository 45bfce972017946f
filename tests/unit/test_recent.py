"""The newest admitted rows, kept at hand: what they say is what the range said, and they are never more than may be."""

from __future__ import annotations

import numpy as np
import pytest

from metering.index import Hashes
from metering.ranges import Claim, Decided, Pending, decide
from metering.reading import read
from metering.recent import Recent
from meterline_schemas.delta import Figures
from meterline_schemas.rules import RULES
from tests.unit.records import PARTITIONS, body, entities, span

ENTITIES = {partition: entities(partition, 400) for partition in range(2)}


def decided(partition: int, first: int, count: int, epoch: int = 1) -> Decided:
    """A range of so many admitted events, their metadata among them."""
    names = ENTITIES[partition][first : first + count]
    values: list[bytes | None] = [body(name, tenant=f"tnt_{name}", metadata={"much": "x" * 500}) for name in names]
    readings = read(span(partition, first, values, epoch=epoch), RULES[1], PARTITIONS)
    return decide(readings, RULES[1], Pending(), {}, Figures())


def hashes(*ranges: Decided) -> Hashes:
    return np.unique(np.concatenate([one.ranked for one in ranges]))


def test_a_row_at_hand_is_the_claim_that_its_range_makes() -> None:
    one, other = decided(0, 0, 30), decided(1, 0, 20, epoch=2)
    recent = Recent(100)
    recent.add(one)
    recent.add(other)
    wanted = hashes(one, other)
    assert recent.claims(wanted) == one.claims(one.ranked) | other.claims(other.ranked)
    assert len(recent.claims(wanted)) == len(recent) == 50
    some = one.ranked[::7]
    assert recent.claims(some) == one.claims(some)
    assert recent.claims(hashes(decided(0, 100, 5))) == {}


@pytest.mark.parametrize("sizes", [[1] * 60, [30, 1, 1, 28], [7, 13, 40]])
def test_ranges_of_any_size_are_joined_and_say_the_same(sizes: list[int]) -> None:
    recent, claims, first = Recent(60), dict[bytes, Claim](), 0
    for size in sizes:
        one = decided(0, first, size)
        recent.add(one)
        claims |= one.claims(one.ranked)
        first += size
    wanted = np.unique(np.array([claim.key_hash for claim in claims.values()], dtype=np.uint64))
    assert recent.claims(wanted) == claims
    assert len(recent) == 60


def test_the_oldest_rows_of_the_partition_that_has_most_go_first_and_there_are_never_more_than_may_be() -> None:
    recent, quiet = Recent(100), decided(1, 0, 10)
    recent.add(quiet)
    for number in range(12):
        recent.add(decided(0, number * 30, 30))
        assert len(recent) <= 100
    assert recent.claims(quiet.ranked) == quiet.claims(quiet.ranked)
    newest, oldest = decided(0, 330, 30), decided(0, 0, 30)
    assert recent.claims(newest.ranked) == newest.claims(newest.ranked)
    assert recent.claims(oldest.ranked) == {}


def test_a_range_that_is_too_large_by_itself_is_not_kept_and_none_is_where_none_may_be() -> None:
    small, large = decided(0, 0, 5), decided(0, 5, 11)
    recent = Recent(10)
    recent.add(small)
    recent.add(large)
    assert recent.claims(hashes(small, large)) == small.claims(small.ranked)
    nothing = Recent(0)
    nothing.add(small)
    assert len(nothing) == 0
    assert nothing.claims(small.ranked) == {}
