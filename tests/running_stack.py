"""One embedded stack a test run, shared by all of pytest's workers, and a corner of it for each test module.

The controlling process starts `python -m deploy.embedded` while the tests are being collected; workers wait for the
file with the addresses. The stack ends with the controlling process, however that ends, and removes its data.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import psycopg
import pytest

from deploy.embedded.errors import StackRunsElsewhereError
from deploy.embedded.processes import Child, spawn
from deploy.embedded.stack import SERVERS, EmbeddedStack, StackAddresses
from deploy.embedded.state import birth
from runtime.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
RUNS = ROOT / ".meterline" / "tests"
FOLDERS_THAT_NEED_IT = (ROOT / "tests" / "integration", ROOT / "tests" / "e2e")
READY_WITHIN_S = 150.0
STOPPED_WITHIN_S = 20.0
HOLDER = pytest.StashKey[dict[str, Any]]()


@dataclass(frozen=True)
class Holder:
    """What a worker must know of the process that holds the stack."""

    addresses: str
    log: str
    pid: int
    born: int

    def as_dict(self) -> dict[str, Any]:
        """For the road to a worker, which carries plain values only."""
        return {"addresses": self.addresses, "log": self.log, "pid": self.pid, "born": self.born}


class RunningStack:
    """The stack of this run, held by a child of pytest's controlling process. `kind` is "embedded" or "containers"."""

    def __init__(self, kind: str = "embedded") -> None:
        RUNS.mkdir(parents=True, exist_ok=True)
        _remove_former_runs()
        self._folder = RUNS / f"run-{os.getpid()}-{secrets.token_hex(3)}"
        self._folder.mkdir()
        addresses = self._folder / "addresses.json"
        if kind == "containers":
            arguments = ["tests.container_stack"]
        else:
            servers = [name for name in SERVERS if not (name == "kafka" and os.environ.get("METERLINE_KAFKA_URL"))]
            arguments = ["deploy.embedded", "--servers", ",".join(servers), "--scratch"]
        folders = ["--data", str(self._folder / "stack"), "--write", str(addresses)]
        self._child: Child = spawn(
            f"the stack ({kind})",
            [sys.executable, "-m", *arguments, *folders],
            log=self._folder / "stack.log",
            cwd=ROOT,
            death_signal=signal.SIGTERM,  # it has data to remove before it ends
        )
        self.holder = Holder(str(addresses), str(self._child.log_path), self._child.pid, birth(self._child.pid) or 0)

    def stop(self, *, keep_logs: bool) -> None:
        """Ends the servers and removes their data; the logs of a failed run go to `.meterline/tests/logs`."""
        logs = RUNS / "logs"
        if keep_logs:
            shutil.rmtree(logs, ignore_errors=True)
            logs.mkdir()
            for path in self._folder.rglob("*.log"):
                shutil.copyfile(path, logs / "-".join(path.relative_to(self._folder).parts))
        self._child.stop(STOPPED_WITHIN_S)
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_former_runs() -> None:
    """Of processes that were killed: their servers have ended with them, their folders have stayed."""
    for folder in RUNS.glob("run-*-*"):
        if birth(int(folder.name.split("-")[1])) is not None:
            continue
        try:
            EmbeddedStack(folder / "stack", log=lambda line: None).forget()
        except StackRunsElsewhereError:
            continue  # it is ending just now; the next run will find it ended
        shutil.rmtree(folder, ignore_errors=True)


def may_be_needed(config: pytest.Config) -> bool:
    """Whether the paths that pytest was given could hold a test that uses the stack."""
    if config.option.collectonly or config.option.help or config.option.version or config.option.showfixtures:
        return False
    for argument in config.args:
        path = (config.invocation_params.dir / argument.split("::", 1)[0]).resolve()
        if any(path.is_relative_to(folder) or folder.is_relative_to(path) for folder in FOLDERS_THAT_NEED_IT):
            return True
    return False


def wait_for(holder: Holder) -> StackAddresses:
    """The addresses, once every server is ready. Fails with what the stack said when it ended or takes too long."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            addresses = StackAddresses(**json.loads(Path(holder.addresses).read_text("utf-8")))
        except FileNotFoundError:
            ended = birth(holder.pid) != holder.born
            if ended or time.monotonic() > deadline:
                said = Path(holder.log).read_text("utf-8", "replace")[-4000:]
                why = "ended" if ended else f"was not ready after {READY_WITHIN_S:.0f} s"
                pytest.fail(f"the stack {why}:\n{said}", pytrace=False)
            time.sleep(0.05)
            continue
        if not addresses.kafka:
            addresses = replace(addresses, kafka=os.environ["METERLINE_KAFKA_URL"])
        return addresses


def corner(stack: StackAddresses, name: str, folder: Path) -> Iterator[Settings]:
    """Settings for one test module: databases of its own, made here and dropped after, and names nobody else uses."""
    suffix = f"{name}_{secrets.token_hex(4)}"
    database = f"t_{suffix}"[:60]
    clickhouse, postgres = urlsplit(stack.clickhouse), urlsplit(stack.postgres)
    with psycopg.connect(stack.postgres, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{database}"'.encode())
    clickhouse_query(stack, f"CREATE DATABASE {database}")
    yield load_settings(
        {
            "METERLINE_KAFKA_URL": stack.kafka,
            "METERLINE_TOPIC_EVENTS": f"usage.events.{suffix}",
            "METERLINE_TOPIC_DELTAS": f"usage.deltas.{suffix}",
            "METERLINE_TOPIC_ALERTS": f"usage.alerts.{suffix}",
            "METERLINE_CONSUMER_GROUP": f"consumer-{suffix}",
            "METERLINE_AGGREGATOR_GROUP": f"aggregator-{suffix}",
            "METERLINE_CLICKHOUSE_URL": f"http://{clickhouse.hostname}:{clickhouse.port}/{database}",
            "METERLINE_CLICKHOUSE_USER": unquote(clickhouse.username or ""),
            "METERLINE_CLICKHOUSE_PASSWORD": unquote(clickhouse.password or ""),
            "METERLINE_POSTGRES_URL": postgres._replace(path=f"/{database}").geturl(),
            "METERLINE_STRIPE_API_BASE": stack.stripe,
            "METERLINE_STRIPE_SECRET_KEY": stack.stripe_key,
            "METERLINE_DATA_DIR": str(folder / "data"),
            "METERLINE_SPOOL_DIR": str(folder / "spool"),
            "METERLINE_LOG_FORMAT": "json",
        }
    )
    with psycopg.connect(stack.postgres, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{database}" WITH (FORCE)'.encode())
    clickhouse_query(stack, f"DROP DATABASE {database}")


def clickhouse_query(stack: StackAddresses, sql: str) -> str:
    """One statement by plain HTTP; raises AssertionError with the server's words when it is refused."""
    url = urlsplit(stack.clickhouse)
    assert url.hostname is not None
    login = f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    try:
        headers = {"Authorization": "Basic " + base64.b64encode(login).decode("ascii")}
        connection.request("POST", f"/?query={quote(sql)}", headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
    finally:
        connection.close()
    assert answer.status == 200, f"ClickHouse answered {answer.status} to {sql}: {body}"
    return body
