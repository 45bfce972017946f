"""A server of ours that runs as `python -m MODULE` and says over HTTP when it is ready."""

from __future__ import annotations

import base64
import http.client
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.embedded.child_server import ChildServer
from deploy.embedded.processes import Starting, run_one, spawn, until

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 60.0
ASK_TIMEOUT_S = 2.0


class ModuleServer(ChildServer):
    """Starts it, waits until `ready_path` answers 200, keeps its port over restarts. From the main thread only."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], *, port: int, home: Path, ready_path: str) -> None:
        self.home = home.absolute()
        self.port = port
        self._name = name
        self._command = [sys.executable, "-m", module, *arguments]
        self._ready_path = ready_path
        self.ask_version: Callable[[], str] = lambda: "local"
        """How to learn what runs there; called once it is ready."""
        self._version = ""

    @property
    def version(self) -> str:
        """As the running server reported it."""
        return self._version

    def start(self) -> None:
        """Returns when it answers; raises EmbeddedError with the log's tail."""
        run_one(self.starting())

    def starting(self) -> Starting[None]:
        """The same, step by step."""
        self.home.mkdir(parents=True, exist_ok=True)
        child = spawn(self._name, self._command, log=self.home / "server.log", cwd=ROOT)
        self.child = child
        yield from until(lambda: get(self.port, self._ready_path) is not None, READY_WITHIN_S, child)
        self._version = self.ask_version()


def get(port: int, path: str, *, user: str = "", password: str = "") -> str | None:
    """The body of a 200 answer, else None."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_S)
    headers = {}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
        return body if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
