"""The system under fire: servers of its own, a proxy on every line, and the processes, started again when they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cli.schema import prepare
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.kafka import Front
from deploy.embedded.processes import Child, free_port, spawn
from deploy.embedded.stack import CLICKHOUSE_DATABASE, EmbeddedStack
from runtime.exits import Exit
from runtime.settings import Settings, load_settings
from tests.fakes.tcp_proxy import TcpProxy

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "examples" / "plans.yaml"
CONSUMERS = ("consumer-0", "consumer-1")
AGGREGATOR = "aggregator"
SERVERS = ("kafka", "postgres", "clickhouse")
LINES = (
    *(("producers", "kafka"),),
    *(("consumers", server) for server in SERVERS),
    *(("aggregator", server) for server in SERVERS),
)
"""Who speaks to whom: each line has a proxy that can be cut."""
NEVER = frozenset(
    {Exit.SETTINGS, Exit.TOPIC_SETTINGS, Exit.TOPIC_REPLACED, Exit.RULES_UNKNOWN, Exit.LOG_TRUNCATED, Exit.FENCE_MISMATCH}
)
"""Codes with which no process may leave, whatever is done to it here."""
_RESTART_TRIES_MAX = 5
_START_PAUSE_S = 0.3


@dataclass
class Part:
    """One process that is kept running."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    child: Child | None = None
    stopped: bool = False
    """By SIGSTOP."""
    again_at: float = 0.0
    wanted: bool = True
    exits: Counter[int] = field(default_factory=Counter)


class Machine:
    """Use as a context manager, from the main thread: children end with the thread that started them."""

    def __init__(self, folder: Path, seed: int, rate: float, producers: int, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        kafka_lines = [who for who, server in LINES if server == "kafka"]
        ports = {who: free_port() for who in kafka_lines}
        self.proxies = {(who, "kafka"): TcpProxy("127.0.0.1", ports[who]) for who in kafka_lines}
        fronts = [Front(ports[who], self.proxies[who, "kafka"].port) for who in kafka_lines]
        servers = [*SERVERS]
        self._stack = EmbeddedStack(folder / "stack", log=say, servers=servers, kafka_fronts=fronts)
        self.began_ms = int(time.time() * 1000)
        self._seed, self._rate, self._producers = seed, rate, producers
        self.parts: dict[str, Part] = {}

    def __enter__(self) -> Machine:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts.values():
            if part.child is not None:
                part.child.kill()
        self._stack.stop()
        for proxy in self.proxies.values():
            proxy.__exit__(None, None, None)

    def forget(self) -> None:
        """Removes all that the run has written."""
        self._stack.forget()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        addresses = self._stack.start()
        for who, server in LINES:
            if server != "kafka":
                url = urlsplit(addresses.postgres if server == "postgres" else addresses.clickhouse)
                assert url.port is not None
                self.proxies[who, server] = TcpProxy("127.0.0.1", url.port)
        self.environment = {
            "METERLINE_KAFKA_URL": addresses.kafka,
            "METERLINE_CLICKHOUSE_URL": addresses.clickhouse.rstrip("/") + f"/{CLICKHOUSE_DATABASE}",
            "METERLINE_POSTGRES_URL": addresses.postgres.rsplit("/", 1)[0] + "/meterline",
            "METERLINE_DATA_DIR": str(self.folder / "data"),
            "METERLINE_SPOOL_DIR": str(self.folder / "spool"),
            "METERLINE_LOG_FORMAT": "json",
            "METERLINE_RETRY_GIVE_UP_S": "60",
            "METERLINE_STALLED_AFTER_S": "20",
            "METERLINE_CLICKHOUSE_TIMEOUT_S": "15",
            # Short ranges: more steps to be killed between.
            "METERLINE_RANGE_EVENTS_MAX": "400",
            "METERLINE_RANGE_WINDOW_MS": "20",
            "PYTHONUNBUFFERED": "1",
        }
        prepare(self.settings, CATALOG, self.folder / "service_secret", self._say)
        self._make_parts()
        for part in self.parts.values():
            self.start(part.name)

    @property
    def settings(self) -> Settings:
        """The way past the proxies, for the driver and the checks."""
        return load_settings(self.environment)

    # -- processes -----------------------------------------------------------------------------------------------

    def _make_parts(self) -> None:
        me = [sys.executable, "-m", "cli"]
        for number, name in enumerate(CONSUMERS):
            # One of them a static member, which takes its partitions back at once; the other one's move.
            instance = {"METERLINE_CONSUMER_INSTANCE": "static"} if number == 0 else {}
            self.parts[name] = Part(name, [*me, "consume"], self._lines_of("consumers") | instance)
        instance = {"METERLINE_AGGREGATOR_INSTANCE": "static"}
        self.parts[AGGREGATOR] = Part(AGGREGATOR, [*me, "aggregate"], self._lines_of("aggregator") | instance)
        for number in range(self._producers):
            argv = [sys.executable, "-m", "tests.chaos.producing", "--producer", str(number), "--seed", str(self._seed)]
            argv += ["--began-ms", str(self.began_ms), "--rate", str(self._rate / self._producers)]
            argv += ["--partitions", str(self.settings.topic_partitions), "--folder", str(self.folder)]
            name = f"producer-{number}"
            self.parts[name] = Part(name, argv, self._lines_of("producers"))

    def _lines_of(self, who: str) -> dict[str, str]:
        """The addresses of this one's proxies in place of the servers' own."""
        found = dict(self.environment)
        for (whose, server), proxy in self.proxies.items():
            if whose != who:
                continue
            variable = f"METERLINE_{server.upper()}_URL"
            if server == "kafka":
                found[variable] = f"127.0.0.1:{proxy.port}"
            else:
                url = urlsplit(found[variable])
                found[variable] = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}")).geturl()
        return found

    def start(self, name: str, crash_at: str | None = None) -> None:
        """Starts a part that does not run, armed for a crash point where one is named."""
        part = self.parts[name]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
        environment |= part.environment
        if crash_at is not None:
            environment["METERLINE_CRASH_AT"] = crash_at
        part.child = spawn(name, part.argv, log=self.folder / "logs" / f"{name}.log", env=environment, cwd=ROOT)
        part.stopped = False

    def kill(self, name: str) -> None:
        part = self.parts[name]
        if part.child is not None:
            part.child.kill()

    def freeze(self, name: str, frozen: bool) -> None:
        """SIGSTOP or SIGCONT."""
        part = self.parts[name]
        if part.child is not None and part.child.poll() is None:
            os.kill(part.child.pid, signal.SIGSTOP if frozen else signal.SIGCONT)
            part.stopped = frozen

    def watch(self) -> None:
        """The supervisor: one look at everything, and what has ended is started again."""
        now = time.monotonic()
        for part in self.parts.values():
            if part.child is None:
                if part.wanted and now >= part.again_at:
                    self.start(part.name)
                continue
            status = part.child.poll()
            if status is None:
                continue
            part.exits[status] += 1
            if status not in (0, -signal.SIGKILL):
                self._say(f"{part.name} left with {status} ({_name(status)})")
            part.child, part.again_at = None, now + _START_PAUSE_S

    def forbidden_exits(self) -> dict[str, list[int]]:
        """Whoever left with a code that nothing done here excuses."""
        found = {part.name: sorted(set(part.exits) & set(NEVER)) for part in self.parts.values()}
        return {name: codes for name, codes in found.items() if codes}

    def exits(self) -> str:
        """How each ended, and how often."""
        return json.dumps(
            {part.name: {_name(status): n for status, n in sorted(part.exits.items())} for part in self.parts.values()}
        )

    def stop_producers(self, within_s: float) -> None:
        """They end when all that they have sent is acknowledged. Raises TimeoutError."""
        producers = [part for part in self.parts.values() if part.name.startswith("producer")]
        for part in producers:
            part.wanted = False
            if part.child is not None:
                part.child.ask_to_stop()
        deadline = time.monotonic() + within_s
        while any(part.child is not None and part.child.poll() is None for part in producers):
            if time.monotonic() > deadline:
                raise TimeoutError(f"a producer still waits for acknowledgements after {within_s:.0f} s")
            self.watch()
            time.sleep(0.1)

    # -- servers -------------------------------------------------------------------------------------------------

    def restart_server(self, name: str) -> None:
        """kill -9, then started again on its data."""
        for attempt in range(_RESTART_TRIES_MAX):
            try:
                self._stack.restart(name, kill=True)
            except EmbeddedError as error:
                if attempt == _RESTART_TRIES_MAX - 1:
                    raise
                self._say(f"{name} did not come back, again: {error}")
            else:
                return


def _name(status: int) -> str:
    if status < 0:
        return f"signal {-status}"
    return Exit(status).name if status in tuple(Exit) else str(status)
