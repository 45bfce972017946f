"""What `explain` says in one sentence, known or unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from store.explain import AdmittedRow, Explanation, Lane, current_lane
from store.positions import Position

NOTHING = Explanation("s", "e", "T", b"1:s,1:e,1:T,", Lane(1, 2, 10, 10), None, (), (), None, None, ())
ROW = AdmittedRow(Position(1, 2, 9), "t", 1_500_000, "usage", 0, 0, 0, 1, True)


@pytest.mark.parametrize(
    ("log_end", "told"),
    [
        (10, "It never reached the log"),
        (13, "3 records there are still to be counted, and it may be one of them"),
        (None, "Kafka did not say what waits there"),
    ],
)
def test_absence_means_only_what_was_looked_at(log_end: int | None, told: str) -> None:
    found = replace(NOTHING, lane=replace(NOTHING.lane, log_end=log_end))
    assert not found.known
    assert told in found.verdict
    assert "epoch 1 partition 2" in found.verdict


def test_what_waits_in_an_earlier_epochs_topic_may_be_the_event() -> None:
    found = replace(NOTHING, lane=replace(NOTHING.lane, epoch=2, earlier=4))
    assert "4 records of an earlier epoch's topic" in found.verdict
    assert found.as_json()["partition"]["earlier"] == 4


def test_an_admitted_event_is_counted_once_the_fence_has_passed_it() -> None:
    assert replace(NOTHING, rows=(ROW,)).verdict == "admitted at 1/2/9 and counted"
    waiting = replace(NOTHING, rows=(replace(ROW, counted=False),), lane=Lane(1, 2, 5, 10))
    assert waiting.verdict == "admitted at 1/2/9; not counted yet: the fence stands at 5"
    older = replace(waiting, lane=Lane(2, 1, 5, 10))
    assert older.verdict == "admitted at 1/2/9; not counted yet: epoch 1 is not counted to its end"


def test_two_admitted_rows_of_a_key_are_told_as_what_they_are() -> None:
    assert "must never be (I2)" in replace(NOTHING, rows=(ROW, ROW)).verdict


def test_a_day_before_1970_is_the_utc_day_of_its_instant() -> None:
    assert replace(ROW, occurred_ms=-1).day == "1969-12-31"


def test_without_an_epoch_there_is_no_partition_to_look_in() -> None:
    with pytest.raises(LookupError, match="topics apply"):
        current_lane([], b"key")
