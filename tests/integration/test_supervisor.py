"""What `./run up` does with a stage that leaves by itself."""

from __future__ import annotations

import sys
from pathlib import Path

from cli.system import LocalSystem, Stage
from runtime.exits import Exit
from tests.fakes.pipeline import wait_until


def test_a_stage_that_left_because_it_stood_still_is_started_again_and_the_code_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    system = LocalSystem(tmp_path, said.append)
    stalls = Stage("consumer", [sys.executable, "-c", f"raise SystemExit({Exit.STALLED.value})"], {}, 1, "/ready")
    system._spawn(stalls)

    def restarted_twice() -> bool:
        system.watch()
        return stalls.restarts > 2

    try:
        wait_until("two restarts", restarted_twice)
    finally:
        system.stop()
    assert "consumer ended (exit 17: STALLED); again in 0.2 s" in said[0]
    assert "again in 0.4 s" in said[1]
