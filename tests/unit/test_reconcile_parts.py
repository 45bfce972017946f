"""The pure parts of `reconcile`: where to look, and what a partition's positions may be to each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterline_schemas.delta import CommitNote, Figures
from meterline_schemas.types import Epoch, Offset
from store.fences import Fence
from store.findings import SHOWN_MAX, Check
from store.group import GroupPosition
from store.log_order import look_at_partition
from store.log_sample import STRETCH_OFFSETS, Stretch, choose
from store.positions import Position, below, parse_position


@pytest.mark.parametrize("text", ["1/0/0", "65535/2147483647/281474976710655"])
def test_a_position_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_position(text)) == text


@pytest.mark.parametrize(
    "text", ["", "1/0", "1/0/-1", "0/0/0", "65536/0/0", "1/2147483648/0", "1/0/281474976710656", "1/0/0 ", "a/b/c"]
)
def test_what_is_no_position_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no position|is out of range"):
        parse_position(text)


def test_nothing_lies_below_an_empty_vector() -> None:
    assert below({}) == "(0)"


def test_a_partition_without_a_position_has_nothing_below_it() -> None:
    assert below({(1, 2): 7, (2, 0): 3}) == (
        "((log_epoch = 1 AND kafka_offset < CAST([0,0,7], 'Array(UInt64)')[kafka_partition + 1])"
        " OR (log_epoch = 2 AND kafka_offset < CAST([3], 'Array(UInt64)')[kafka_partition + 1]))"
    )


windows = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=5).map(
    lambda pairs: [Stretch(p, lowest, lowest + length) for p, (lowest, length) in enumerate(pairs)]
)


@given(windows, st.integers(1, 400), st.randoms(use_true_random=False))
def test_a_sample_lies_within_the_log_is_bounded_and_names_no_offset_twice(
    log: list[Stretch], sample: int, random: st.DataObject
) -> None:
    chosen = choose(log, sample, lambda n: random.randrange(n))  # type: ignore[attr-defined]
    offsets = [(stretch.partition, offset) for stretch in chosen for offset in range(stretch.lowest, stretch.highest)]
    assert len(offsets) == len(set(offsets)) <= max(sample, min(sample, STRETCH_OFFSETS))
    for stretch in chosen:
        window = log[stretch.partition]
        assert window.lowest <= stretch.lowest < stretch.highest <= window.highest
    if sum(window.highest - window.lowest for window in log) <= sample:
        assert len(offsets) == sum(window.highest - window.lowest for window in log)
    else:
        assert offsets


def at(offset: int, figures: Figures) -> GroupPosition:
    return GroupPosition(offset, "", CommitNote(Epoch(1), Offset(offset), 1, figures))


FENCE = Fence(1, 0, 10, 1, Figures(admitted=6, duplicate=2, void=2, hash_sum=5))


@pytest.mark.parametrize(
    ("position", "log_start", "log_end", "told"),
    [
        (at(10, FENCE.figures), 0, 10, []),
        (at(12, Figures(7, 2, 0, 0, 3, 9)), 0, 20, []),
        (None, 0, 20, ["no committed offset"]),
        (at(10, Figures(5, 3, 0, 0, 2, 5)), 0, 10, ["figures in the commit"]),
        (at(12, Figures(5, 4, 0, 0, 3, 9)), 0, 20, ["figures in the commit"]),
        (at(12, Figures(7, 2, 0, 0, 2, 9)), 0, 20, ["figures in the commit"]),
        (at(9, Figures(5, 2, 0, 0, 2, 9)), 0, 20, ["committed offset below the fence"]),
        (GroupPosition(10, "mine", None), 0, 10, ["commit metadata"]),
        (at(10, FENCE.figures), 0, 9, ["position behind the log's end"]),
        (at(10, FENCE.figures), 11, 20, ["records deleted before they were decided"]),
        (at(10, FENCE.figures), 10, 20, []),
    ],
)
def test_positions_are_in_order_or_it_is_said_what_is_not(
    position: GroupPosition | None, log_start: int, log_end: int, told: list[str]
) -> None:
    check = Check("I5")
    look_at_partition(check, FENCE, position, 0, log_start, log_end)
    assert [finding.what for finding in check.findings] == told


def test_a_partition_in_which_nothing_was_committed_yet_is_in_order() -> None:
    check = Check("I5")
    look_at_partition(check, Fence(1, 0, 3, 1, Figures()), None, 3, 0, 8)
    assert check.ok


def test_a_check_keeps_some_findings_and_counts_all() -> None:
    check = Check("I4")
    for number in range(SHOWN_MAX + 5):
        check.add("counter", {"n": number}, 1, 2)
    assert (len(check.findings), check.findings_count, check.ok) == (SHOWN_MAX, SHOWN_MAX + 5, False)


def test_positions_sort_as_the_log_does_within_a_partition() -> None:
    assert Position(1, 0, 9) < Position(1, 0, 10) < Position(2, 0, 0)
