"""Runs `meterline serve` as a real process on a free port, and talks to it over a real socket."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from runtime.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
STARTED_WITHIN_S = 30.0
ANSWER_WITHIN_S = 20.0


@dataclass
class Answer:
    """What came back. Numbers are exact: `json` reads them as Decimal."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_float=Decimal)


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    secret: str | None
    lines: list[str] = field(default_factory=list)

    stopping: bool = False

    def stop(self) -> None:
        """Asks it to end, as a supervisor does."""
        self.stopping = True
        self.process.send_signal(signal.SIGTERM)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        secret: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own. `secret`: the server's own by default, None for none. Bytes go as they are."""
        sent = {"X-Request-Id": "test-1", **(headers or {})}
        secret = self.secret if secret == "" else secret
        if secret is not None:
            sent["X-Service-Secret"] = secret
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_WITHIN_S)
        try:
            connection.request(method, path, payload, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def check(self, **body: object) -> Any:
        answer = self.ask("POST", "/v1/billing/entitlements/check", body)
        assert answer.status == 200, answer.body
        return answer.json

    def logged(self) -> list[dict[str, Any]]:
        """The JSON lines so far."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make these settings."""
    variables = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None and value != "":
            variables[PREFIX + name.upper()] = str(value)
    return variables


@contextmanager
def serving(
    settings: Settings,
    *arguments: str,
    secret: str | None,
    over: Mapping[str, str] | None = None,
    role: str = "entitlements",
) -> Iterator[Server]:
    """The server while the block runs; it has to end with status 0."""
    process = start(settings, *arguments, over=over, role=role)
    assert process.stderr is not None
    lines: list[str] = []
    listening: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if '"message": "listening"' in line:
                listening.put(int(json.loads(line)["port"]))
        listening.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        port = listening.get(timeout=STARTED_WITHIN_S)
        assert port is not None, "".join(lines)
        server = Server(process, port, secret, lines)
        yield server
        assert server.stopping or process.poll() is None, "".join(lines)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=settings.stop_within_s + 5)
        reader.join(timeout=5)
        process.stderr.close()
    assert status == 0, "".join(lines[-30:])


def start(
    settings: Settings, *arguments: str, over: Mapping[str, str] | None = None, role: str = "entitlements"
) -> subprocess.Popen[str]:
    variables = {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error", **environment(settings), **(over or {})}
    command = [sys.executable, "-m", "cli", "serve", role, "--port", "0", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def execute(settings: Settings, statements: Sequence[tuple[str, Sequence[object] | Mapping[str, object]]]) -> None:
    """Statements in one transaction."""
    with psycopg.connect(settings.postgres_url.get_secret_value()) as connection:
        for sql, parameters in statements:
            connection.execute(sql.encode(), parameters)
