"""Crash points: dead at the n-th passing and not before; nothing at all where none is armed."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from runtime import crash


def _passes(spec: str, times: int) -> tuple[int, int]:
    """(exit status, passings survived) of a process that passes consumer.stored."""
    program = (
        "import sys; from runtime import crash\n"
        f"if {spec!r}: crash.arm({spec!r})\n"
        f"for n in range({times}):\n"
        "    crash.crash_point('consumer.announced'); crash.crash_point('consumer.stored'); print(n, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, len(done.stdout.split())


@pytest.mark.parametrize(
    ("spec", "survived"), [("consumer.stored", 0), ("consumer.stored:1", 0), ("consumer.stored:3", 2), ("consumer.stored:", 0)]
)
def test_the_process_dies_as_by_kill_9_at_the_nth_passing(spec: str, survived: int) -> None:
    assert _passes(spec, 5) == (-signal.SIGKILL, survived)


@pytest.mark.parametrize("spec", ["", "consumer.decided", "consumer.stored:6"])
def test_points_that_are_not_armed_or_not_reached_do_nothing(spec: str) -> None:
    assert _passes(spec, 5) == (0, 5)


@pytest.mark.parametrize("spec", ["", "nowhere", "consumer.stored:0", "consumer.stored:x", "consumer.stored:-1", "stored"])
def test_a_point_that_does_not_exist_is_refused_with_the_names_that_do(spec: str) -> None:
    with pytest.raises(ValueError, match=r"aggregator\.before_commit") as refused:
        crash.arm(spec)
    assert "consumer.inserting" in str(refused.value)
