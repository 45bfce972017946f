"""Consumers join and leave every two seconds while records arrive: I1 to I5 hold when it is over."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from deploy.embedded.processes import Child
from runtime.exits import Exit
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline
from tests.integration.test_consume_crashes import publish

STORM_S = float(os.environ.get("METERLINE_STORM_S", "16"))
"""The nightly run makes it a minute."""
JOIN_EVERY_S = 2.0
AT_ONCE_MAX = 3
LEAVES = (0, -9, -15, Exit.OWNERSHIP_LOST, Exit.UNREACHABLE)
"""Gracefully, killed, told to stop before it was listening, told by the group that it lost, or told to stop while it waited
for an answer that a rebalance held up."""


@pytest.mark.timeout(180 + 3 * STORM_S)
def test_a_storm_of_rebalances_changes_no_number(migrated: Settings, tmp_path: Path) -> None:
    dice, pace = random.Random(1), threading.Event()
    over = {"consumer_instance": "", "range_window_ms": "5", "range_events_max": "100"}
    with Pipeline(migrated, tmp_path) as pipeline:
        pipeline.aggregate()
        members: deque[Child] = deque([pipeline.consume(**over)])
        left: list[Child] = []
        began, rounds = time.monotonic(), 0
        while time.monotonic() - began < STORM_S:
            until = time.monotonic() + JOIN_EVERY_S
            members.append(pipeline.consume(**over))
            if len(members) > AT_ONCE_MAX:
                leaver = members.popleft()
                left.append(leaver)
                if dice.random() < 0.5:
                    leaver.kill()
                else:
                    leaver.ask_to_stop()
            while time.monotonic() < until:
                publish(pipeline, rounds, 40)
                rounds += 1
                pace.wait(0.2)
        for leaver in left:
            status = pipeline.wait_for_end(leaver)
            assert status in LEAVES, f"{leaver.name} left with {status}\n{leaver.tail()}"
        for member in members:
            assert member.poll() in (None, Exit.OWNERSHIP_LOST), f"{member.name} left with {member.poll()}\n{member.tail()}"
        if all(member.poll() is not None for member in members):
            pipeline.consume(**over)
        pipeline.settle(within_s=120.0)
        truth = pipeline.assert_exact()
        assert truth.total().admitted == 40 * rounds
