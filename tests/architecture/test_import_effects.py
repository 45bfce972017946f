"""Nothing connects, starts a process or writes at import: importing a module is free of effects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import FOLDERS, ROOT, sources

# Scripts: run by Alembic within a migration, and by the spawner as a file.
NOT_MODULES = {"store.postgres.env", "deploy.embedded.launch"}

_IMPORT_ALL = """
import importlib, json, os, sys, threading

FORBIDDEN = ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.fork", "os.exec",
             "os.posix_spawn", "os.system", "sqlite3.connect", "urllib.Request", "http.client.connect")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
now = [""]
found = []

def hook(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and str(arguments[0]) != os.devnull
    # urllib3 asks the kernel for any port of ::1 and gives it back at once, to learn whether there is IPv6.
    probes = event == "socket.bind" and arguments[1] == ("::1", 0)
    if (event in FORBIDDEN and not probes) or writes:
        found.append(f"{now[0]}: {event} {arguments[:2]!r}")

sys.addaudithook(hook)
for name in json.loads(sys.argv[1]):
    now[0] = name
    importlib.import_module(name)
    if threading.active_count() > 1:
        found.append(f"{name}: a thread runs: {[thread.name for thread in threading.enumerate()]}")
        break
for fd in os.listdir("/proc/self/fd"):
    try:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            found.append(f"descriptor {fd} is a socket")  # of a library in C, which no audit hook sees
    except FileNotFoundError:
        continue  # the listing's own
print(json.dumps(found))
"""


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_importing_connects_to_nothing_and_starts_nothing(package: str, tmp_path: Path) -> None:
    # `__main__` modules run when they are imported: that is their use.
    modules = [source.module for source in sources(package) if source.path.name != "__main__.py"]
    modules = [module for module in modules if module not in NOT_MODULES]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    ran = subprocess.run(
        [sys.executable, "-B", "-c", _IMPORT_ALL, json.dumps(modules)],
        cwd=tmp_path,
        env=environment | {"METERLINE_KAFKA_URL": "nowhere.invalid:1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == []
    assert not list(tmp_path.iterdir()), "something was written into the working folder"


def test_the_exempted_scripts_exist() -> None:
    assert all((ROOT / f"{name.replace('.', '/')}.py").exists() for name in NOT_MODULES)
