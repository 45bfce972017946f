"""The thread that owns the local Stripe's file."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from deploy.embedded.local_stripe.problems import Answer
from deploy.embedded.local_stripe.state import Keeper, State

WITHIN_S = 10.0


def test_work_whose_loop_is_closed_before_its_answer_is_done_and_ends_nothing(tmp_path: Path) -> None:
    begun, closed, done = threading.Event(), threading.Event(), list[str]()
    keeper = Keeper(tmp_path)
    keeper.start()

    def slow(state: State) -> Answer:
        begun.set()
        assert closed.wait(WITHIN_S)
        done.append("slow")
        return Answer(200, {})

    def next_one(state: State) -> Answer:
        done.append("next")
        return Answer(200, {})

    async def leave() -> None:
        left = asyncio.create_task(keeper.do(slow))
        await asyncio.to_thread(begun.wait, WITHIN_S)
        left.cancel()

    asyncio.run(leave())
    closed.set()
    assert asyncio.run(asyncio.wait_for(keeper.do(next_one), WITHIN_S)).status == 200
    keeper.stop()
    assert done == ["slow", "next"]
