"""The task that delivers webhooks outlives whatever one delivery raises."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from deploy.embedded.local_stripe import delivering
from deploy.embedded.local_stripe.delivering import Delivering, Delivery
from deploy.embedded.local_stripe.faults import Faults
from deploy.embedded.local_stripe.problems import Answer
from deploy.embedded.local_stripe.state import Keeper, State

WITHIN_S = 10.0


def test_a_receiver_that_closes_as_it_is_connected_to_is_a_failed_attempt_and_what_comes_after_it_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [Delivery(number, 0, f"http://127.0.0.1:1/{number}", "whsec_x", "{}") for number in range(2)]
    noted: dict[int, tuple[bool, str]] = {}
    both, loops = asyncio.Event(), list[asyncio.AbstractEventLoop]()

    def due(state: State, found: list[Delivery]) -> Answer:
        found += [waiting.pop(0)] if waiting else []
        return Answer(200, {})

    def note(state: State, delivery: Delivery, taken: bool, answer: str) -> Answer:
        noted[delivery.seq] = (taken, answer)
        if len(noted) == 2:
            loops[0].call_soon_threadsafe(both.set)
        return Answer(200, {})

    async def post(self: httpx.AsyncClient, url: str, **_: object) -> httpx.Response:
        if url.endswith("/0"):
            raise AttributeError("'NoneType' object has no attribute 'getpeername'")  # as httpx does then
        return httpx.Response(200)

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        task = asyncio.create_task(Delivering(keeper, Faults).run())
        await asyncio.wait([task, asyncio.create_task(both.wait())], timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()

    monkeypatch.setattr(delivering, "_due", due)
    monkeypatch.setattr(delivering, "_noted", note)
    monkeypatch.setattr(httpx.AsyncClient, "post", post)
    keeper = Keeper(tmp_path)
    keeper.start()
    try:
        asyncio.run(run())
    finally:
        keeper.stop()
    assert noted == {0: (False, "AttributeError"), 1: (True, "200")}
