"""A ClickHouse gateway of a test's own: started on a free port, talked to by the unmodified client or by plain HTTP."""

from __future__ import annotations

import base64
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
from clickhouse_connect.driver.client import Client

WRITER = ("writer", "writer-pass")
READER = ("reader", "reader-pass")
_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int:
        return int(self.headers.get("x-clickhouse-exception-code", "0"))


@dataclass
class GatewayProcess:
    """One process; `start` again after `kill` opens the same data."""

    folder: Path
    tls: tuple[Path, Path] | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, password in (WRITER, READER):
            (self.folder / name).write_text(password + "\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        arguments = ["--data", str(self.folder / "data"), "--port", str(self.port)]
        arguments += ["--user", WRITER[0], "--password-file", str(self.folder / WRITER[0])]
        arguments += ["--readonly-user", READER[0], "--readonly-password-file", str(self.folder / READER[0])]
        if self.tls is not None:
            arguments += ["--tls-cert", str(self.tls[0]), "--tls-key", str(self.tls[1])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.embedded.clickhouse", *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._wait_ready()

    def _wait_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the gateway left with {self.process.returncode}: {(self.folder / 'log').read_text()}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    pass
                if self.tls is not None or self.request("GET", "/ping").body == b"Ok.\n":
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("the gateway did not become ready")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise

    def rss_bytes(self) -> int:
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def client(self, who: tuple[str, str] = WRITER, **options: Any) -> Client:
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username=who[0], password=who[1], query_retries=0, **options
        )

    def request(
        self,
        method: str,
        path: str = "/",
        body: bytes | None = None,
        *,
        who: tuple[str, str] | None = WRITER,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30,
        **parameters: Any,
    ) -> Reply:
        """One request on a connection of its own."""
        sent = dict(headers or {})
        if who is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(":".join(who).encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path + ("?" + urlencode(parameters) if parameters else ""), body, sent)
            response = connection.getresponse()
            data = response.read()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
        finally:
            connection.close()

    def sql(self, text: str | bytes, **parameters: Any) -> Reply:
        return self.request("POST", "/", text.encode() if isinstance(text, str) else text, **parameters)

    def tls_context(self, authority: Path) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(authority))

    def __enter__(self) -> GatewayProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
