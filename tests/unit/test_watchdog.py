"""When a process that stands still leaves, and when it must not."""

from __future__ import annotations

import subprocess
import sys

from runtime.exits import Exit
from runtime.watchdog import Seen, Standing, Watchdog

BOUND_S, EXCUSED_S = 10.0, 40.0


def after(seconds: int, seen: Seen | None, watchdog: Watchdog | None = None, start: float = 0.0) -> str | None:
    """What a watchdog says that sees the same every second."""
    watchdog = watchdog or Watchdog(BOUND_S, EXCUSED_S)
    for second in range(seconds + 1):
        said = watchdog.look(seen, start + second)
        if said is not None:
            return said
    return None


def test_a_position_below_its_logs_end_that_stands_still_has_stalled() -> None:
    assert after(9, Seen({"p0": Standing(5, 9)})) is None
    assert after(10, Seen({"p0": Standing(5, 9)})) == "p0 stood still at 5 for 10 s while its log ends at 9"


def test_one_partition_that_stands_still_beside_others_that_move_has_stalled() -> None:
    watchdog = Watchdog(BOUND_S, EXCUSED_S)
    said = [watchdog.look(Seen({"p0": Standing(5, 9), "p1": Standing(at, 1_000)}), at) for at in range(12)]
    assert said[9] is None
    assert said[10] is not None


def test_whoever_moves_or_has_nothing_to_do_has_not_stalled() -> None:
    watchdog = Watchdog(BOUND_S, EXCUSED_S)
    assert {watchdog.look(Seen({"p0": Standing(at // 5, 1_000)}), at) for at in range(200)} == {None}
    assert after(200, Seen({"p0": Standing(9, 9)})) is None
    assert after(200, Seen({})) is None


def test_idle_time_does_not_count_once_records_arrive() -> None:
    watchdog = Watchdog(BOUND_S, EXCUSED_S)
    assert after(100, Seen({"p0": Standing(9, 9)}), watchdog) is None
    assert after(8, Seen({"p0": Standing(9, 10)}), watchdog, start=101.0) is None


def test_what_has_no_end_is_expected_to_move_always() -> None:
    assert after(10, Seen({"the sampler": Standing(3)})) == "the sampler stood still at 3 for 10 s"


def test_a_store_that_is_known_to_be_away_is_an_excuse_for_as_long_as_it_may_be_away() -> None:
    assert after(40, Seen({"p0": Standing(5, 9)}, "postgres")) is None
    said = after(60, Seen({"p0": Standing(5, 9)}, "postgres"))
    assert said == "p0 stood still at 5 for 50 s while its log ends at 9, waiting for postgres"


def test_after_an_excuse_the_bound_begins_anew() -> None:
    watchdog = Watchdog(BOUND_S, EXCUSED_S)
    assert after(30, Seen({"p0": Standing(5, 9)}, "postgres"), watchdog) is None
    assert after(8, Seen({"p0": Standing(5, 9)}), watchdog, start=31.0) is None
    assert after(3, Seen({"p0": Standing(5, 9)}), watchdog, start=40.0) is not None


def test_while_the_broker_does_not_say_how_far_the_log_goes_nothing_counts() -> None:
    watchdog = Watchdog(BOUND_S, EXCUSED_S)
    assert after(9, Seen({"p0": Standing(5, 9)}), watchdog) is None
    assert after(100, None, watchdog, start=10.0) is None
    assert after(9, Seen({"p0": Standing(5, 9)}), watchdog, start=111.0) is None


def test_a_process_that_was_itself_held_up_starts_to_look_anew() -> None:
    watchdog = Watchdog(BOUND_S, EXCUSED_S)
    assert watchdog.look(Seen({"p0": Standing(5, 9)}), 0.0) is None
    assert watchdog.look(Seen({"p0": Standing(5, 9)}), 60.0) is None
    assert after(9, Seen({"p0": Standing(5, 9)}), watchdog, start=61.0) is None


def test_a_partition_that_was_given_back_is_forgotten() -> None:
    watchdog = Watchdog(BOUND_S, EXCUSED_S)
    assert after(9, Seen({"p0": Standing(5, 9)}), watchdog) is None
    assert watchdog.look(Seen({}), 10.0) is None
    assert after(9, Seen({"p0": Standing(5, 9)}), watchdog, start=11.0) is None


def test_it_leaves_with_its_code_although_a_hung_thread_holds_the_lock_of_the_log() -> None:
    program = (
        "import logging, sys, threading\n"
        "from runtime import watchdog\n"
        "from runtime.watchdog import Seen, Standing, Watchdog, watched\n"
        "watchdog.LOOK_EVERY_S, watchdog._SAY_WITHIN_S = 0.01, 0.1\n"
        "handler = logging.StreamHandler(); logging.getLogger().addHandler(handler)\n"
        "with watched(Watchdog(0.05, 1.0), lambda: Seen({'p0': Standing(0, 1)})):\n"
        "    handler.acquire()\n"
        "    threading.Event().wait(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False, capture_output=True)
    assert ended.returncode == Exit.STALLED, ended.stderr


def test_it_says_what_each_thread_was_doing() -> None:
    program = (
        "import threading\n"
        "from runtime import watchdog\n"
        "from runtime.watchdog import Seen, Standing, Watchdog, watched\n"
        "watchdog.LOOK_EVERY_S = 0.01\n"
        "def hangs_here(): threading.Event().wait(60)\n"
        "with watched(Watchdog(0.05, 1.0), lambda: Seen({'p0': Standing(0, 1)})):\n"
        "    hangs_here()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False, capture_output=True, text=True)
    assert ended.returncode == Exit.STALLED, ended.stderr
    assert "p0 stood still at 0" in ended.stderr
    assert "hangs_here" in ended.stderr
