"""What a data folder remembers between starts: ports, secrets, and which processes were started last.

One file of mode 0600, written whole and renamed into place, and one lock, so that two stacks never share data.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from deploy.embedded.errors import EmbeddedError, StackRunsElsewhereError
from deploy.embedded.processes import free_port, port_is_free

PORT_FREE_WITHIN_S = 2.0
FORMER_GONE_WITHIN_S = 5.0


class State:
    """The memory of one data folder. Hold its lock while anything runs on the folder."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self._path = self.data_dir / "state.json"
        self._lock: IO[str] | None = None
        self._values: dict[str, Any] = {}

    def acquire(self) -> None:
        """Takes the lock and reads the file. Raises EmbeddedError with the remedy when another process has it."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / "stack.lock").open("a+")
        except OSError as error:
            raise EmbeddedError(f"{self.data_dir} cannot be written: {error}. Name another data folder.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise StackRunsElsewhereError(
                f"an embedded stack runs on {self.data_dir} already (process {holder}). "
                "Stop it with `./run down` or Ctrl-C where it runs, or name another data folder."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        try:
            self._values = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            self._values = {}
        except (OSError, ValueError) as error:
            self.release()
            raise EmbeddedError(f"{self._path} cannot be read: {error}. Remove {self.data_dir} to begin anew.") from error

    def release(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def port(self, name: str, log: Callable[[str], None]) -> int:
        """The port of the last time where it can be had, else a free one."""
        ports = self._values.setdefault("ports", {})
        former = ports.get(name)
        if former is not None:
            deadline = time.monotonic() + PORT_FREE_WITHIN_S
            while not (free := port_is_free(former)) and time.monotonic() < deadline:
                time.sleep(0.02)
            if free:
                return int(former)
            log(f"port {former} of {name} is taken by another program now; choosing another")
        ports[name] = free_port()
        self._save()
        return int(ports[name])

    def secret(self, name: str, prefix: str = "") -> str:
        """Made once, the same ever after."""
        known = self._values.setdefault("secrets", {})
        if name not in known:
            known[name] = prefix + secrets.token_urlsafe(24).replace("-", "x").replace("_", "y")
            self._save()
        return str(known[name])

    def started(self, pids: dict[str, int]) -> None:
        """Remembers the processes, each with its birth, since numbers are used again."""
        self._values["processes"] = {name: [pid, birth(pid)] for name, pid in pids.items()}
        self._save()

    def end_former(self, log: Callable[[str], None]) -> None:
        """After a kill of the process that held the lock its children are ending: waits for them, then kills them."""
        left = {name: (pid, born) for name, (pid, born) in self._values.get("processes", {}).items() if born is not None}
        deadline = time.monotonic() + FORMER_GONE_WITHIN_S
        while left := {name: (pid, born) for name, (pid, born) in left.items() if birth(pid) == born}:
            if time.monotonic() > deadline:
                for name, (pid, _) in left.items():
                    log(f"{name} of a former stack (process {pid}) still runs; killing it")
                    os.kill(pid, signal.SIGKILL)
                deadline += FORMER_GONE_WITHIN_S
            time.sleep(0.02)

    def _save(self) -> None:
        new = self._path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._values, file, indent=1)
        new.replace(self._path)


def birth(pid: int) -> int | None:
    """When it was started, in clock ticks since boot; None when it has gone or is only waiting to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
