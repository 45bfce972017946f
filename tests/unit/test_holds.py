"""What a hold may become, and when it is held."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from metering.holds import Hold, HoldRefused, HoldState, LogPosition, Settlement, held, lies_past, release, settle, sweep
from meterline_schemas.types import Micros

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
LATER = NOW + timedelta(seconds=60)
TICK = timedelta(microseconds=1)
OPEN = Hold(Micros(5), LATER)
ASKED = Settlement(Micros(3), NOW, b"one")
SETTLED = settle(OPEN, ASKED, NOW)


def test_an_open_hold_is_held_until_the_instant_that_it_expires() -> None:
    assert held(OPEN, LATER - TICK, None) == 5
    assert held(OPEN, LATER, None) == 0


def test_settling_holds_what_was_used_and_fixes_it() -> None:
    assert (SETTLED.state, SETTLED.settlement) == (HoldState.SETTLED, ASKED)
    assert held(SETTLED, NOW, None) == 3
    assert settle(SETTLED, Settlement(Micros(3), LATER, b"one"), LATER) is SETTLED
    with pytest.raises(HoldRefused) as refused:
        settle(SETTLED, Settlement(Micros(3), NOW, b"other"), NOW)
    assert refused.value.code == "already_settled"


@pytest.mark.parametrize("state", [HoldState.OPEN, HoldState.EXPIRED])
def test_what_has_expired_settles_all_the_same_and_says_so(state: HoldState) -> None:
    expired = Hold(Micros(5), NOW, state)
    assert held(expired, NOW, None) == 0
    late = settle(expired, ASKED, NOW)
    assert late.settlement is not None
    assert late.settlement.late
    assert held(late, LATER, None) == 3
    assert SETTLED.settlement is not None
    assert not SETTLED.settlement.late


def test_a_settled_hold_ends_when_the_fence_passes_it_and_not_before_nor_by_time() -> None:
    at = Hold(Micros(5), LATER, HoldState.SETTLED, ASKED, LogPosition(1, 0, 7))
    far = LATER + timedelta(days=400)
    assert [held(at, far, fence) for fence in (None, 0, 7, 8)] == [3, 3, 3, 0]


def test_a_release_ends_it_and_is_refused_after_a_settlement() -> None:
    released = release(OPEN)
    assert (held(released, NOW, None), release(released)) == (0, released)
    assert release(Hold(Micros(5), NOW, HoldState.EXPIRED)).state is HoldState.RELEASED
    with pytest.raises(HoldRefused, match="correction"):
        release(SETTLED)
    with pytest.raises(HoldRefused) as refused:
        settle(released, ASKED, NOW)
    assert refused.value.code == "already_released"


def test_only_open_holds_past_their_time_are_orphans() -> None:
    assert sweep(OPEN, LATER - TICK) is OPEN
    assert sweep(OPEN, LATER).state is HoldState.EXPIRED
    assert sweep(SETTLED, LATER) is SETTLED
    assert sweep(release(OPEN), LATER).state is HoldState.RELEASED


def test_a_record_at_or_past_its_epochs_end_has_to_be_sent_again() -> None:
    assert [lies_past(LogPosition(1, 0, 7), end) for end in (None, 8, 7, 0)] == [False, False, True, True]
