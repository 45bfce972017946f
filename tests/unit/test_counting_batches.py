"""Faust acknowledges a batch however its body ends: so the body ends counted, or the process does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from aggregator import app
from runtime.exits import Exit, MeterlineExit


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[Exit]:
    codes: list[Exit] = []

    def leave(code: Exit, why: str) -> None:
        codes.append(code)
        raise Left(why)

    monkeypatch.setattr(app, "_leave", leave)
    return codes


def cancelled_while(count: Callable[[threading.Event], None], *, stopping: bool, within_s: float = 10.0) -> threading.Event:
    """Cancels the body while `count` runs on its thread; raises what came of it, and returns the stop event."""
    stop, begun = threading.Event(), threading.Event()

    def counting() -> None:
        begun.set()
        count(stop)

    async def body() -> None:
        counted = asyncio.get_running_loop().run_in_executor(pool, counting)
        task = asyncio.ensure_future(app._whole(counted, within_s, lambda: stopping, stop))
        assert await asyncio.to_thread(begun.wait, 10.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(body())
    return stop


def test_a_cancelled_batch_is_counted_to_its_end_before_it_is_acknowledged(left: list[Exit]) -> None:
    done = threading.Event()

    def count(stop: threading.Event) -> None:
        stop.wait(0.1)
        done.set()

    stop = cancelled_while(count, stopping=False)
    assert done.is_set()
    assert not stop.is_set(), "a cancellation that is no stop leaves the rest running"
    assert left == []


def test_a_batch_that_cannot_be_counted_when_the_process_stops_ends_it_at_once_unacknowledged(left: list[Exit]) -> None:
    def count(stop: threading.Event) -> None:
        assert stop.wait(30.0), "nobody told the counting thread"
        raise MeterlineExit(Exit.UNREACHABLE, "postgres is away")

    with pytest.raises(Left):
        cancelled_while(count, stopping=True)
    assert left == [Exit.UNREACHABLE]


def test_a_batch_that_takes_longer_than_the_bound_of_a_stop_ends_the_process(left: list[Exit]) -> None:
    release = threading.Event()
    threading.Timer(0.5, release.set).start()
    with pytest.raises(Left):
        cancelled_while(lambda _: assert_released(release), stopping=True, within_s=0.05)
    assert left == [Exit.UNREACHABLE]


def assert_released(release: threading.Event) -> None:
    assert release.wait(10.0)


@pytest.mark.parametrize(
    ("error", "code"),
    [(MeterlineExit(Exit.FENCE_MISMATCH, "x"), Exit.FENCE_MISMATCH), (KeyError("a bug"), Exit.FAILED)],
    ids=["named", "unforeseen"],
)
def test_a_batch_that_fails_ends_the_process_with_its_code(left: list[Exit], error: Exception, code: Exit) -> None:
    async def body() -> None:
        counted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        counted.set_exception(error)
        await app._whole(counted, 1.0, lambda: False, threading.Event())

    with pytest.raises(Left):
        asyncio.run(body())
    assert left == [code]


def test_a_loop_beside_the_stream_that_fails_takes_the_process_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[Exit] = []
    monkeypatch.setattr(app, "_leave", lambda code, _: codes.append(code))

    def broken() -> None:
        raise KeyError("a bug")

    stop = threading.Event()
    with app._beside([broken, lambda: assert_released(stop)], stop):
        pass
    assert codes == [Exit.FAILED]
    assert stop.is_set()
