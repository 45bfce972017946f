"""The whole system on one machine: the embedded servers, the schema, and every stage as a supervised child.

`up` and `demo` are the two users. Every method belongs to the main thread: children end with the thread that spawned
them, so they end with this process, however it ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from cli import local_webhooks
from cli.schema import prepare
from cli.server_restarts import ServerRestarts
from cli.stack_file import JOINED
from deploy.embedded.processes import Child, free_port, port_is_free, run_all, spawn, until
from deploy.embedded.stack import CLICKHOUSE_DATABASE, SERVERS, EmbeddedStack, StackAddresses
from runtime.exits import Exit, MeterlineExit
from runtime.life import Backoff
from runtime.settings import Settings, load_settings, variables

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
RESTARTS_SETTLED_S = 30.0
"""A stage that ran this long is healthy: its next restart comes at once again."""

_DECIDED = (
    *(
        "kafka_",
        "clickhouse_url",
        "clickhouse_user",
        "clickhouse_password",
        "clickhouse_read_",
        "clickhouse_ca_file",
        "postgres_url",
    ),
    *("postgres_ca_file", "stripe_secret_key", "stripe_api_base", "data_dir", "spool_dir", "http_host", "http_port"),
    *("metrics_port", "consumer_instance", "aggregator_instance", "grpc_account_port", "grpc_payment_port"),
)
"""Settings, or beginnings of their names, that say where something is."""

Say = Callable[[str], None]


@dataclass
class Stage:
    """One supervised child: what it is started with, and how its restarts go."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    port: int
    ready_path: str
    child: Child | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    restarts: int = 0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.2, 5.0))

    def answers(self) -> bool:
        """Whether it says that it is ready."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{self.ready_path}", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class LocalSystem:
    """Servers and stages on one data folder. `start`, then `watch` again and again, then `stop`."""

    def __init__(
        self,
        data_dir: Path,
        say: Say,
        *,
        http_port: int | None = None,
        durable: bool = True,
        over: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._say = say
        self._over = dict(over or {})
        self._http_port = http_port
        self._external_kafka = (
            None if JOINED in os.environ else os.environ.get("METERLINE_KAFKA_URL") or os.environ.get("KAFKA_URL")
        )
        servers = [name for name in SERVERS if not (name == "kafka" and self._external_kafka)]
        self._stack = EmbeddedStack(self.data_dir, log=say, servers=servers, durable=durable)
        self._server_restarts = ServerRestarts(self._stack, say)
        self._stages: dict[str, Stage] = {}
        self._grpc_ports: dict[str, int] = {}
        self.addresses = StackAddresses()
        self.environment: dict[str, str] = {}
        self.service_secret = ""

    @property
    def settings(self) -> Settings:
        """What the stages run with, apart from their own ports."""
        return load_settings(self.environment)

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self, catalog: Path) -> None:
        """Everything, ready to be used. On an error nothing is left running.

        Raises SettingsError for a setting of the environment that is wrong, before anything starts.
        """
        self.settings_of_the_environment()
        if self._http_port is not None and not port_is_free(self._http_port):
            raise MeterlineExit(
                Exit.SETTINGS, f"port {self._http_port} is taken: end what listens there, or choose another with --port"
            )
        try:
            self.addresses = self._stack.start()
            self.environment = self._environment()
            self.service_secret = prepare(self.settings, catalog, self.data_dir / "service_secret", self._say)
            for stage in self._make_stages():
                self._spawn(stage)
            run_all({name: until(stage.answers, READY_WITHIN_S, _running(stage)) for name, stage in self._stages.items()})
            self._say(f"  stages are ready: {', '.join(self._stages)}")
        except BaseException:
            self.stop()
            raise

    def watch(self) -> None:
        """One look: what has ended is started again, after a wait that grows while it keeps ending.

        Raises EmbeddedError for a server that cannot be started again.
        """
        now = time.monotonic()
        self._server_restarts.look(time.monotonic)
        for stage in self._stages.values():
            if stage.restart_at is not None:
                if now >= stage.restart_at:
                    self._spawn(stage)
                continue
            status_or_none = _running(stage).poll()
            if status_or_none is None:
                continue
            if now - stage.started_at > RESTARTS_SETTLED_S:
                stage.backoff.reset()
            wait_s = stage.backoff.wait_s()
            stage.restart_at, stage.restarts = now + wait_s, stage.restarts + 1
            self._say(f"{stage.name} ended ({_status(status_or_none)}); again in {wait_s:.1f} s ({_running(stage).log_path})")

    def kill(self, name: str) -> int:
        """kill -9 of one stage; returns the pid that died. `watch` starts it again."""
        child = _running(self._stages[name])
        child.kill()
        return child.pid

    def ready(self, name: str) -> bool:
        """Whether a stage says that it is ready."""
        return self._stages[name].answers()

    def http(self, name: str = "entitlements") -> str:
        """The base address of a stage."""
        return f"http://127.0.0.1:{self._stages[name].port}"

    def stop(self) -> None:
        """Stages first, by SIGTERM, then the servers. Harmless when nothing runs."""
        children = [stage.child for stage in self._stages.values() if stage.child is not None]
        for child in children:
            child.ask_to_stop()
        deadline = time.monotonic() + STOP_WITHIN_S
        for child in children:
            child.stop(max(0.1, deadline - time.monotonic()))
        self._stages = {}
        self._stack.stop()

    def forget(self) -> None:
        """Stops, and removes all that a run leaves in the data folder."""
        self.stop()
        for folder in ("logs", "spool", "aggregator"):
            shutil.rmtree(self.data_dir / folder, ignore_errors=True)
        for file in ("service_secret", "secret_encrypt_key", "stack.json", "env"):
            (self.data_dir / file).unlink(missing_ok=True)
        for port in self.data_dir.glob("*_port"):
            port.unlink(missing_ok=True)
        self._stack.forget()

    def as_json(self) -> dict[str, Any]:
        """`stack.json`: where other tools join in."""
        settings = self.settings
        pids: dict[str, int | None] = dict.fromkeys(("kafka",))
        pids |= self._stack.addresses().pids
        pids |= {stage.name: stage.child.pid for stage in self._stages.values() if stage.child is not None}
        return {
            "kafka": settings.kafka_url,
            "clickhouse": self.addresses.clickhouse,
            "clickhouse_readonly": self.addresses.clickhouse_readonly,
            "postgres": settings.postgres_url.get_secret_value(),
            "http": self.http(),
            "api": self.http("control-plane"),
            "grpc": {name: f"127.0.0.1:{port}" for name, port in self._grpc_ports.items()},
            "stripe": self.addresses.stripe,
            "stripe_key": self.addresses.stripe_key,
            "service_secret": self.service_secret,
            "topics": {"events": settings.topic_events, "deltas": settings.topic_deltas, "alerts": settings.topic_alerts},
            "processes": pids,
            "metrics": {stage.name: f"http://127.0.0.1:{stage.port}/metrics" for stage in self._stages.values()},
            "versions": self.addresses.versions,
            "supervisor": os.getpid(),
        }

    def settings_of_the_environment(self) -> Settings:
        """What this process's environment says of the stages, apart from where servers are. Raises SettingsError."""
        return load_settings(self._kept() | self._over)

    # -- making it -----------------------------------------------------------------------------------------------

    def _kept(self) -> dict[str, str]:
        """This process's environment without what is decided here: where servers and files are. A setting under one of
        its other names, PORT or HOST say, was meant for some other program."""
        decided = {field for field in variables() if field.startswith(_DECIDED)}
        if self._external_kafka:
            decided = {field for field in decided if not field.startswith("kafka_")}
        dropped = {JOINED} | {name for field, names in variables().items() for name in (names if field in decided else names[1:])}
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return kept | ({"METERLINE_KAFKA_URL": self._external_kafka} if self._external_kafka else {})

    def _environment(self) -> dict[str, str]:
        """What is kept, and the addresses of the servers."""
        addresses = self.addresses
        reader = urlsplit(addresses.clickhouse_readonly)
        return (
            {"METERLINE_KAFKA_URL": addresses.kafka, "METERLINE_SECRET_ENCRYPT_KEY": self._remembered_encrypt_key()}
            | self._kept()
            | {
                "METERLINE_CLICKHOUSE_URL": addresses.clickhouse.rstrip("/") + f"/{CLICKHOUSE_DATABASE}",
                "METERLINE_CLICKHOUSE_READ_USER": reader.username or "",
                "METERLINE_CLICKHOUSE_READ_PASSWORD": reader.password or "",
                "METERLINE_POSTGRES_URL": addresses.postgres.rsplit("/", 1)[0] + "/meterline",
                "METERLINE_STRIPE_SECRET_KEY": addresses.stripe_key,
                "METERLINE_STRIPE_API_BASE": addresses.stripe,
                "METERLINE_DATA_DIR": str(self.data_dir),
                "METERLINE_SPOOL_DIR": str(self.data_dir / "spool"),
                "PYTHONUNBUFFERED": "1",
            }
            | self._over
        )

    def _make_stages(self) -> list[Stage]:
        me = [sys.executable, "-m", "cli"]
        http_port = self._http_port or self._remembered_port("http_port")
        api_port = self._remembered_port("api_port")
        consumer_port, aggregator_port, export_port, grpc_port = (free_port() for _ in range(4))
        self._grpc_ports = {name: self._remembered_port(f"grpc_{name}_port") for name in ("account", "payment")}
        grpc_ports = {f"METERLINE_GRPC_{name.upper()}_PORT": str(port) for name, port in self._grpc_ports.items()}
        # Both surfaces of the control plane take webhooks.
        webhooks = {"METERLINE_STRIPE_WEBHOOK_SECRET": self._webhook_secrets(api_port)}
        return [
            Stage(
                "consumer",
                [*me, "consume"],
                {"METERLINE_METRICS_PORT": str(consumer_port), "METERLINE_CONSUMER_INSTANCE": "consumer-1"},
                consumer_port,
                "/ready",
            ),
            Stage(
                "aggregator",
                [*me, "aggregate"],
                {"METERLINE_METRICS_PORT": str(aggregator_port), "METERLINE_AGGREGATOR_INSTANCE": "aggregator-1"},
                aggregator_port,
                "/ready",
            ),
            Stage("entitlements", [*me, "serve", "entitlements"], {"METERLINE_HTTP_PORT": str(http_port)}, http_port, "/ready"),
            Stage(
                "control-plane",
                [*me, "serve", "control-plane"],
                {"METERLINE_HTTP_PORT": str(api_port), **webhooks},
                api_port,
                "/ready",
            ),
            Stage("exporter", [*me, "export", "schedule"], {"METERLINE_METRICS_PORT": str(export_port)}, export_port, "/ready"),
            Stage(
                "grpc",
                [*me, "serve", "grpc"],
                {"METERLINE_METRICS_PORT": str(grpc_port), **grpc_ports, **webhooks},
                grpc_port,
                "/ready",
            ),
        ]

    def _remembered_encrypt_key(self) -> str:
        """The secret behind the API keys of this data folder: without it they would not be found again."""
        file = self.data_dir / "secret_encrypt_key"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(32), "ascii")
        return file.read_text("ascii").strip()

    def _webhook_secrets(self, api_port: int) -> str:
        return local_webhooks.tell(self.addresses.stripe, self.addresses.stripe_key, f"http://127.0.0.1:{api_port}")

    def _remembered_port(self, name: str) -> int:
        """The port of last time where it is free, so that a saved address goes on working; else another one."""
        file = self.data_dir / name
        try:
            port = int(file.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            port = 0
        if not port or not port_is_free(port):
            port = free_port()
            file.write_text(str(port), "ascii")
        return port

    def _spawn(self, stage: Stage) -> None:
        stage.child = spawn(
            stage.name,
            stage.argv,
            log=self.data_dir / "logs" / f"{stage.name}.log",
            env=self.environment | stage.environment,
        )
        stage.started_at, stage.restart_at = time.monotonic(), None
        self._stages[stage.name] = stage


def _running(stage: Stage) -> Child:
    if stage.child is None:
        raise RuntimeError(f"{stage.name} was not spawned")
    return stage.child


def _status(status: int) -> str:
    if status < 0:
        return f"killed by signal {-status}"
    try:
        return f"exit {status}: {Exit(status).name}"
    except ValueError:
        return f"exit {status}"
