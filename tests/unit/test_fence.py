"""What the aggregator does with a delta, given the fence."""

from __future__ import annotations

import pytest

from metering.fence import FenceAction, FiguresDisagree, action, check_continues, explains
from meterline_schemas.delta import HASH_MODULUS, Delta, DeltaLine, Figures
from meterline_schemas.types import Epoch, Micros, Offset, Partition, TenantId, UsageType


def delta(from_offset: int, to_offset: int, events: int, cumulative: Figures) -> Delta:
    lines = (DeltaLine(TenantId("t"), UsageType("PHOTO"), "2026-09-21", Micros(events), events),) if events else ()
    return Delta(Epoch(1), Partition(0), Offset(from_offset), Offset(to_offset), 1, lines, cumulative)


@pytest.mark.parametrize(
    ("at", "found"),
    [
        (9, FenceAction.RECOMPUTE),
        (10, FenceAction.ADD),
        (11, FenceAction.RECOMPUTE),
        (19, FenceAction.RECOMPUTE),
        (20, FenceAction.SKIP),
        (99, FenceAction.SKIP),
    ],
    ids=["gap", "continues", "overlaps", "overlaps-by-all-but-one", "ends-at-the-fence", "long-past"],
)
def test_the_position_alone_decides(at: int, found: FenceAction) -> None:
    assert action(delta(10, 20, 0, Figures(invalid=20)), at) is found


FENCE = Figures(admitted=6, duplicate=4, hash_sum=HASH_MODULUS - 1)


def test_a_delta_that_adds_what_its_figures_say_continues() -> None:
    check_continues(delta(10, 20, 7, Figures(admitted=13, duplicate=5, void=2, hash_sum=5)), FENCE)


@pytest.mark.parametrize(
    ("events", "cumulative", "why"),
    [
        (6, Figures(admitted=13, duplicate=5, void=2), "6 events in the lines, 7 by the cumulative count"),
        (8, Figures(admitted=13, duplicate=5, void=2), "8 events in the lines"),
        (7, Figures(admitted=13, duplicate=5, void=1), "9 verdicts for 10 offsets"),
        (7, Figures(admitted=13, duplicate=5, void=3), "11 verdicts for 10 offsets"),
        (0, Figures(admitted=5, duplicate=15), "figures went back"),
        (0, Figures(admitted=6, duplicate=3, void=11), "figures went back"),
    ],
)
def test_a_delta_whose_figures_say_something_else_is_not_added(events: int, cumulative: Figures, why: str) -> None:
    with pytest.raises(FiguresDisagree, match=why):
        check_continues(delta(10, 20, events, cumulative), FENCE)


def test_rows_explain_the_difference_only_with_the_same_count_and_the_same_hash_sum_round_the_modulus() -> None:
    target = Figures(admitted=8, duplicate=12, hash_sum=4)
    assert explains(2, 5, FENCE, target)
    assert not explains(2, 4, FENCE, target)
    assert not explains(1, 5, FENCE, target)
    assert not explains(3, 5, FENCE, target)
