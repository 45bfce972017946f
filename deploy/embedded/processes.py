"""Child processes that end with their parent, even when the parent is killed.

Starting is written as generators that yield while they wait, so that one thread, the main one, can start several
servers at a time: the death signal of a child fires when the THREAD that spawned it ends.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.embedded.errors import EmbeddedError

T = TypeVar("T")
Starting = Generator[None, None, T]
"""Something that is under way: yields whenever it waits, returns what it made."""

LAUNCHER = Path(__file__).with_name("launch.py")
LOG_BYTES_MAX = 16 << 20
TAIL_LINES = 25
PAUSE_S = 0.01


@dataclass(frozen=True)
class User:
    """Whom a child runs as."""

    name: str
    uid: int
    gid: int


class Child:
    """A running process, leader of a session of its own: Ctrl-C on the terminal reaches its parent only."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log_path: Path, log_from: int, stop_signal: int) -> None:
        self.name = name
        self.log_path = log_path
        self._process = process
        self._log_from = log_from
        self._stop_signal = stop_signal

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit status, negative for a signal, or None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Sends the stop signal and does not wait, so that several children can end at a time."""
        if self.poll() is None:
            self._process.send_signal(self._stop_signal)

    def stop(self, timeout_s: float = 10.0) -> int:
        """Asks it to end, waits, then kills it. Returns the exit status. Harmless when it has ended."""
        if self.poll() is None:
            self.ask_to_stop()
            try:
                return self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return self.kill()
        return self.kill()

    def kill(self) -> int:
        """kill -9 for it and what it started, and reaps it. Harmless when it has ended."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the whole group has gone
        except PermissionError:
            self._process.kill()  # on some systems a group of zombies answers so
        return self._process.wait(10.0)

    def logged(self) -> str:
        """What it wrote since it was spawned."""
        with self.log_path.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode("utf-8", "replace")

    def tail(self) -> str:
        """The last lines of that, for an error message."""
        lines = self.logged().splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it logged nothing)"


def spawn(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: User | None = None,
    stop_signal: int = signal.SIGTERM,
    death_signal: int = signal.SIGKILL,
) -> Child:
    """Starts `argv` (its first item a path) with its output appended to `log`.

    The kernel sends it `death_signal` when this process ends in any way. Raises RuntimeError outside the main thread,
    because the child would end with that thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"{name} must be spawned from the main thread: it would be killed when this thread ends")
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".1.log"))
    uid, gid = (user.uid, user.gid) if user else (-1, -1)
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(death_signal)), str(uid), str(gid)]
    with log.open("ab") as output:
        log_from = output.tell()
        process = subprocess.Popen(
            [*launcher, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    return Child(name, process, log, log_from, stop_signal)


def until(check: Callable[[], bool], timeout_s: float, child: Child) -> Starting[None]:
    """Waits for `check`, which must not block for long. Raises EmbeddedError with the log's tail when `child` ends
    first or the time is over; the child is ended then."""
    deadline = time.monotonic() + timeout_s
    while not check():
        status = child.poll()
        if status is not None:
            raise EmbeddedError(
                f"{child.name} ended with status {status} before it was ready:\n{child.tail()}\n  ({child.log_path})"
            )
        if time.monotonic() > deadline:
            child.kill()
            raise EmbeddedError(f"{child.name} was not ready after {timeout_s:.0f} s:\n{child.tail()}\n  ({child.log_path})")
        yield


def until_ended(child: Child, timeout_s: float) -> Starting[None]:
    """Waits for a command that does its work and ends. Raises EmbeddedError when it fails or takes too long."""
    deadline = time.monotonic() + timeout_s
    while (status := child.poll()) is None:
        if time.monotonic() > deadline:
            child.kill()
            raise EmbeddedError(f"{child.name} did not end within {timeout_s:.0f} s:\n{child.tail()}")
        yield
    if status != 0:
        raise EmbeddedError(f"{child.name} failed with status {status}:\n{child.tail()}")


def run_all(starting: Mapping[str, Starting[T]]) -> dict[str, T]:
    """Drives them together from this thread and returns what each returned. The first error ends it, at once: whoever
    called stops what was started."""
    left = dict(starting)
    made: dict[str, T] = {}
    while left:
        for name, steps in list(left.items()):
            try:
                next(steps)
            except StopIteration as end:
                made[name] = end.value
                del left[name]
        if left:
            time.sleep(PAUSE_S)
    return made


def run_one(starting: Starting[T]) -> T:
    """Drives one."""
    return run_all({"": starting})[""]


def wait_ready(check: Callable[[], bool], timeout_s: float, child: Child) -> None:
    """`until`, for a caller that has nothing else to do meanwhile."""
    run_one(until(check, timeout_s, child))


def port_is_free(port: int) -> bool:
    """Whether a server can listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def port_answers(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True


_chosen: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, outside the range the kernel takes for outgoing connections: a client that keeps
    reconnecting to a killed server could otherwise be given the server's port and hold it. Never the same one twice in a
    process: several are chosen before anything listens on the first."""
    try:
        lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except OSError:
        lowest_outgoing = 32_768
    ports = range(10_000, max(lowest_outgoing, 20_000))
    for port in random.SystemRandom().sample(ports, 200):
        if port not in _chosen and port_is_free(port):
            _chosen.add(port)
            return port
    raise EmbeddedError("200 ports of 127.0.0.1 were tried and all are taken: end what listens on them, and start again")
