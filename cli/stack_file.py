"""`stack.json`, where other tools join in, and who keeps it: the supervisor that `up` is."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STACK_FILE = "stack.json"
ENVIRONMENT_FILE = "env"
"""The same addresses as settings, for a shell: `set -a; . .meterline/env; set +a`."""
JOINED = "METERLINE_STACK"
"""In that file: its settings are those of an embedded stack, no choice of its user's. A later `up` or `demo` in the same
shell must not take the broker in them for one that was brought along."""


def supervisor_of(data_dir: Path) -> int | None:
    """The `up` that runs on a data folder, ready or still starting; None when there is none, whatever files say."""
    return next((pid for pid in (_pid_in_stack_file(data_dir), _pid_in_lock(data_dir)) if pid and _is_supervisor(pid)), None)


def write(data_dir: Path, stack: Mapping[str, Any], environment: Mapping[str, str]) -> Path:
    """Both files, mode 0600, each whole or not at all; `stack.json` last, for who waits for it."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in sorted(environment.items()) if name.startswith("METERLINE_")]
    _write(data_dir / ENVIRONMENT_FILE, "".join([f"{JOINED}={shlex.quote(str(data_dir))}\n", *lines]))
    return _write(data_dir / STACK_FILE, json.dumps(stack, indent=2) + "\n")


def remove(data_dir: Path) -> None:
    """Forgets the addresses. Harmless when there are none."""
    for name in (STACK_FILE, ENVIRONMENT_FILE):
        (data_dir / name).unlink(missing_ok=True)


def _write(path: Path, text: str) -> Path:
    fresh = path.with_name(path.name + ".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return fresh.replace(path)


def _pid_in_stack_file(data_dir: Path) -> int | None:
    try:
        return int(json.loads((data_dir / STACK_FILE).read_text("utf-8"))["supervisor"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or spoilt by hand: then the lock tells


def _pid_in_lock(data_dir: Path) -> int | None:
    try:
        return int((data_dir / "stack.lock").read_text("ascii"))
    except (OSError, ValueError):
        return None


def _is_supervisor(pid: int) -> bool:
    """Whether the process runs and is an `up`: a pid is used again after its process has gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, IndexError):
        return False
    return status != "Z" and b"up" in words
