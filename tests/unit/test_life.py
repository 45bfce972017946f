"""How a process is told to stop, how it waits, and what it says of itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from runtime.life import Backoff, Check, Stop, serve_health
from runtime.settings import Settings


@pytest.fixture
def signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_stop(number: signal.Signals) -> None:
    stop = Stop.install()
    assert not stop.is_set()
    signal.raise_signal(number)
    assert stop.wait(10.0)


@pytest.mark.usefixtures("signals")
def test_a_signal_that_interrupts_a_wait_for_the_stop_does_not_lock_it_up() -> None:
    # The handler runs between two steps of the main thread, and one of these holds the event's own lock.
    stop = Stop.install()
    with stop._cond:  # type: ignore[attr-defined]  # the lock that every method of the event takes
        signal.raise_signal(signal.SIGTERM)
    assert stop.wait(10.0)


def test_a_second_signal_ends_a_process_that_does_not_end() -> None:
    program = (
        "import sys, threading; from runtime.life import Stop\n"
        "stop = Stop.install(); print('ready', flush=True); stop.wait(30)\n"
        "print('told', flush=True); threading.Event().wait(30)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == "told\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10.0) == -signal.SIGTERM


def test_waits_double_up_to_their_bound_and_start_over_after_a_success() -> None:
    backoff = Backoff(0.1, 0.5)
    assert [backoff.wait_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.wait_s() == 0.1


def _get(port: int | None, path: str) -> tuple[int, bytes]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10.0) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_readiness_names_the_check_that_fails_and_health_does_not_depend_on_it() -> None:
    wrong: dict[str, str | None] = {"postgres": "it is away", "kafka": None}
    checks: dict[str, Check] = {"postgres": lambda: wrong["postgres"], "kafka": lambda: wrong["kafka"]}
    with serve_health(Settings(metrics_port=0), checks) as port:
        status, body = _get(port, "/ready")
        assert (status, json.loads(body)) == (503, {"ready": False, "checks": {"postgres": "it is away", "kafka": "ok"}})
        assert _get(port, "/health")[0] == 200
        wrong["postgres"] = None
        assert _get(port, "/ready?verbose=1")[0] == 200
        status, body = _get(port, "/metrics")
        assert status == 200
        assert b"meterline_retries_total" in body or b"python_info" in body
        assert _get(port, "/nothing")[0] == 404


def test_no_port_is_opened_where_none_is_set() -> None:
    with serve_health(Settings(), {}) as port:
        assert port is None
