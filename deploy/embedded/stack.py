"""The embedded stack: real Kafka, Postgres and ClickHouse and a local Stripe, as children of the calling process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from deploy.embedded import postgres
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.kafka import Front, Kafka, SecureListener
from deploy.embedded.module_server import ModuleServer, get
from deploy.embedded.postgres import Postgres
from deploy.embedded.processes import Child, Starting, run_all, run_one
from deploy.embedded.state import State

SERVERS = ("kafka", "postgres", "clickhouse", "stripe")
CLICKHOUSE_USER = "meterline"
CLICKHOUSE_DATABASE = "meterline"
"""Of requests that name none."""
CLICKHOUSE_READER = "analyst"


class Server(Protocol):
    """What the stack asks of each of its parts."""

    child: Child | None

    @property
    def version(self) -> str: ...

    def starting(self) -> Starting[None]: ...
    def stop(self, timeout_s: float = 10.0) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class StackAddresses:
    """Where everything answers; empty for a server that was left out."""

    kafka: str = ""
    """host:port"""
    clickhouse: str = ""
    """http://user:password@host:port/"""
    clickhouse_readonly: str = ""
    """The same for a user who can only read."""
    postgres: str = ""
    """postgresql://user:password@host:port/postgres"""
    stripe: str = ""
    """http://host:port"""
    stripe_key: str = ""
    """The secret key that the local Stripe takes."""
    pids: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    """As the servers themselves reported them."""

    def as_json(self) -> dict[str, Any]:
        """For a file or a line of JSON."""
        return asdict(self)


class EmbeddedStack:
    """Starts, restarts and stops the servers whose data lies below `data_dir`.

    Every method belongs to the main thread: the servers end with the thread that started them. A second stack on the
    same folder is refused. A later start finds the same data, secrets and, where they are free, ports.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        log: Callable[[str], None],
        servers: Collection[str] = SERVERS,
        durable: bool = True,
        kafka_listeners: Sequence[SecureListener] = (),
        kafka_fronts: Sequence[Front] = (),
    ) -> None:
        if unknown := set(servers) - set(SERVERS):
            raise ValueError(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
        self.data_dir = data_dir.absolute()
        self._names = [name for name in SERVERS if name in servers]
        self._log = log
        self._durable = durable
        self._kafka_listeners = kafka_listeners
        self._kafka_fronts = kafka_fronts
        self._state = State(self.data_dir)
        self._servers: dict[str, Server] = {}

    def start(self) -> StackAddresses:
        """All of them at a time; returns when each is ready. On an error nothing is left running."""
        began = time.monotonic()
        self._state.acquire()
        try:
            self._state.end_former(self._log)
            self._servers = {name: getattr(self, f"_make_{name}")() for name in self._names}
            self._log(f"starting {', '.join(self._names)} (logs in {self.data_dir})")
            run_all({name: self._announced(name, began) for name in self._servers})
            self._state.started(self._pids())
        except OSError as error:
            self.stop()
            raise EmbeddedError(
                f"{self.data_dir} cannot be used: {error}. Free some disk, or name a data folder that can be written."
            ) from error
        except BaseException:
            self.stop()
            raise
        return self.addresses()

    def addresses(self) -> StackAddresses:
        """Of the running servers."""
        kafka, database = self._servers.get("kafka"), self._servers.get("postgres")
        stripe = self._servers.get("stripe")
        return StackAddresses(
            kafka=kafka.address if isinstance(kafka, Kafka) else "",
            postgres=database.url if isinstance(database, Postgres) else "",
            clickhouse=self._clickhouse_url(CLICKHOUSE_USER, "clickhouse"),
            clickhouse_readonly=self._clickhouse_url(CLICKHOUSE_READER, "clickhouse-readonly"),
            stripe=f"http://127.0.0.1:{stripe.port}" if isinstance(stripe, ModuleServer) else "",
            stripe_key=self._state.secret("stripe", "sk_test_") if stripe is not None else "",
            pids=self._pids(),
            versions={name: server.version for name, server in self._servers.items()},
        )

    def ended(self) -> dict[str, int]:
        """The servers that have ended by themselves, with their exit status. A supervisor restarts them."""
        statuses = {name: server.child.poll() for name, server in self._servers.items() if server.child is not None}
        return {name: status for name, status in statuses.items() if status is not None}

    def restart(self, name: str, *, kill: bool = False) -> int:
        """Ends one server (with kill -9 if asked to), starts it again on the same port and data, returns its new pid."""
        server = self._servers[name]
        if kill:
            server.kill()
        else:
            server.stop()
        run_one(server.starting())
        self._state.started(self._pids())
        return self._pids()[name]

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends all of them, by force after the time, and lets the folder go. Harmless when nothing runs."""
        running = list(reversed(self._servers.values()))
        for server in running:
            if server.child is not None:
                server.child.ask_to_stop()
        deadline = time.monotonic() + timeout_s
        for server in running:
            server.stop(max(0.1, deadline - time.monotonic()))
        self._state.release()

    def forget(self) -> None:
        """Stops, and removes all data for good."""
        self.stop()
        # With the lock held again, so that nobody else's servers lose their data.
        self._state.acquire()
        try:
            postgres.forget(self.data_dir / "postgres")
            for part in (*SERVERS, "state.json"):
                path = self.data_dir / part
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            (self.data_dir / "stack.lock").unlink()
        finally:
            self._state.release()
        if not any(self.data_dir.iterdir()):
            self.data_dir.rmdir()

    def _pids(self) -> dict[str, int]:
        return {name: server.child.pid for name, server in self._servers.items() if server.child is not None}

    def _clickhouse_url(self, user: str, secret: str) -> str:
        server = self._servers.get("clickhouse")
        if not isinstance(server, ModuleServer):
            return ""
        return f"http://{user}:{self._state.secret(secret)}@127.0.0.1:{server.port}/"

    def _announced(self, name: str, began: float) -> Starting[None]:
        server = self._servers[name]
        yield from server.starting()
        self._log(f"  {name} {server.version} is ready after {time.monotonic() - began:.1f} s")

    def _make_kafka(self) -> Kafka:
        return Kafka(
            self.data_dir / "kafka",
            log=self._log,
            port=self._state.port("kafka", self._log),
            controller_port=self._state.port("kafka-controller", self._log),
            listeners=self._kafka_listeners,
            fronts=self._kafka_fronts,
        )

    def _make_postgres(self) -> Postgres:
        return Postgres(
            self.data_dir / "postgres",
            log=self._log,
            password=self._state.secret("postgres"),
            port=self._state.port("postgres", self._log),
            durable=self._durable,
        )

    def _make_clickhouse(self) -> ModuleServer:
        home, port = self.data_dir / "clickhouse", self._state.port("clickhouse", self._log)
        password = self._state.secret("clickhouse")
        data = home / "data"
        data.mkdir(parents=True, exist_ok=True)
        secret, reader_secret = home / "password", home / "readonly-password"
        for path, text in ((secret, password), (reader_secret, self._state.secret("clickhouse-readonly"))):
            path.touch(mode=0o600)
            path.write_text(text, "utf-8")
        arguments = ["--data", str(data), "--port", str(port), "--user", CLICKHOUSE_USER, "--password-file", str(secret)]
        arguments += ["--readonly-user", CLICKHOUSE_READER, "--readonly-password-file", str(reader_secret)]
        arguments += ["--database", CLICKHOUSE_DATABASE]
        server = ModuleServer("ClickHouse", "deploy.embedded.clickhouse", arguments, port=port, home=home, ready_path="/ping")

        def ask_version() -> str:
            answer = get(port, "/?query=SELECT%20version()", user=CLICKHOUSE_USER, password=password)
            if answer is None:
                raise EmbeddedError(f"ClickHouse answers /ping but no query; its log is {home / 'server.log'}")
            return answer.strip()

        server.ask_version = ask_version
        return server

    def _make_stripe(self) -> ModuleServer:
        home, port = self.data_dir / "stripe", self._state.port("stripe", self._log)
        home.mkdir(parents=True, exist_ok=True)
        key = home / "key"
        key.touch(mode=0o600)
        key.write_text(self._state.secret("stripe", "sk_test_"), "utf-8")
        arguments = ["--data", str(home / "data"), "--port", str(port), "--key-file", str(key)]
        return ModuleServer(
            "the local Stripe", "deploy.embedded.local_stripe", arguments, port=port, home=home, ready_path="/__local/health"
        )
