"""Children of the embedded stack end with their parent, however that ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.embedded import processes
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.postgres import data_folder as postgres_data
from deploy.embedded.postgres import forget
from deploy.embedded.processes import Child, free_port, port_answers, port_is_free, run_one, spawn, until_ended, wait_ready
from deploy.embedded.state import birth

ROOT = Path(__file__).parents[2]

# A parent that starts the given server class, says the child's number, and then does nothing.
PARENT = """
import sys, time
from pathlib import Path
from deploy.embedded.{module} import {name}
server = {name}(Path(sys.argv[1]), log=lambda line: None)
server.start()
print(server.child.pid, flush=True)
time.sleep(600)
"""


def _eventually(check: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _child_of_a_killed_parent(module: str, name: str, home: Path) -> int:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(module=module, name=name), str(home)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert birth(child) is not None
        parent.kill()
    return child


def test_kafka_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = _child_of_a_killed_parent("kafka", "Kafka", tmp_path / "kafka")
    assert _eventually(lambda: birth(child) is None)


def test_postgres_ends_with_all_its_sessions_when_its_parent_is_killed(tmp_path: Path) -> None:
    # As root this is a child of another user, whose death signal the change of user would have cleared.
    home = tmp_path / "postgres"
    try:
        child = _child_of_a_killed_parent("postgres", "Postgres", home)
        data = postgres_data(home)
        assert _eventually(lambda: birth(child) is None)
        assert _eventually(lambda: not _processes_with(os.fsencode(data)))
    finally:
        forget(home)


def _processes_with(text: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if text in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def test_spawning_from_another_thread_is_refused(tmp_path: Path) -> None:
    caught: list[RuntimeError] = []

    def elsewhere() -> None:
        try:
            spawn("sleep", ["/bin/sleep", "1"], log=tmp_path / "log")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def _shell(tmp_path: Path, script: str) -> Child:
    return spawn("the script", ["/bin/sh", "-c", script], log=tmp_path / "script.log")


def test_a_child_that_ends_too_early_is_reported_with_what_it_said(tmp_path: Path) -> None:
    child = _shell(tmp_path, "echo the disk is full; exit 3")
    with pytest.raises(EmbeddedError, match=r"(?s)ended with status 3.*the disk is full"):
        wait_ready(lambda: False, 10, child)


def test_a_child_that_does_not_get_ready_is_ended(tmp_path: Path) -> None:
    child = _shell(tmp_path, "echo still thinking; exec sleep 60")
    with pytest.raises(EmbeddedError, match="not ready after"):
        wait_ready(lambda: False, 0.3, child)
    assert child.poll() == -signal.SIGKILL


def test_only_the_last_start_is_quoted_from_a_log(tmp_path: Path) -> None:
    run_one(until_ended(_shell(tmp_path, "echo of yesterday"), 10))
    child = _shell(tmp_path, "echo of today")
    run_one(until_ended(child, 10))
    assert child.logged() == "of today\n"


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    child = spawn("nothing", ["/no/such/command"], log=tmp_path / "log")
    with pytest.raises(EmbeddedError, match="cannot start /no/such/command"):
        run_one(until_ended(child, 10))


def test_stopping_is_bounded_and_takes_the_grandchildren_along(tmp_path: Path) -> None:
    child = _shell(tmp_path, "trap '' TERM; sleep 61 & echo $!; wait; wait")
    assert _eventually(lambda: child.logged().strip().isdigit())
    grandchild = int(child.logged())
    assert child.stop(timeout_s=0.2) == -signal.SIGKILL
    assert _eventually(lambda: birth(grandchild) is None)


def test_a_port_is_chosen_once_though_nothing_listens_on_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([[20_001], [20_001, 20_002]])
    monkeypatch.setattr(processes, "_chosen", set[int]())
    monkeypatch.setattr(processes, "port_is_free", lambda port: True)
    monkeypatch.setattr(random.SystemRandom, "sample", lambda self, ports, count: next(drawn))
    assert (free_port(), free_port()) == (20_001, 20_002)


def test_a_free_port_lies_outside_what_the_kernel_hands_out() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = free_port()
    assert port < max(lowest, 20_000)
    assert port_is_free(port)
    assert not port_answers(port)
