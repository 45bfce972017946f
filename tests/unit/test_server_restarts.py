"""A server that cannot be started again at once gets more tries, and not without end."""

from __future__ import annotations

import pytest

from cli.server_restarts import SETTLED_S, TRIES_MAX, ServerRestarts
from deploy.embedded.errors import EmbeddedError


class Servers:
    """`failures` is how many restarts fail from now on."""

    def __init__(self, failures: int = 0) -> None:
        self.gone: dict[str, int] = {}
        self.failures = failures
        self.tries: list[float] = []
        self.now = 0.0

    def ended(self) -> dict[str, int]:
        return self.gone

    def restart(self, name: str) -> int:
        self.tries.append(self.now)
        self.gone.pop(name, None)  # a try that fails before anything was spawned leaves no child to be seen
        if self.failures:
            self.failures -= 1
            raise EmbeddedError("its port is taken")
        return 1


def looked(servers: Servers, restarts: ServerRestarts, seconds: float) -> None:
    until = servers.now + seconds
    while servers.now < until:
        restarts.look(lambda: servers.now)
        servers.now += 0.25


def test_a_server_that_ended_is_started_again_at_once() -> None:
    servers = Servers()
    restarts = ServerRestarts(servers, lambda line: None)
    servers.gone["kafka"] = -9
    looked(servers, restarts, 5.0)
    assert servers.tries == [0.0]


def test_a_server_that_does_not_come_back_is_tried_again_after_waits_that_grow() -> None:
    servers, said = Servers(failures=TRIES_MAX - 1), list[str]()
    restarts = ServerRestarts(servers, said.append)
    servers.gone["postgres"] = 1
    looked(servers, restarts, 60.0)
    assert len(servers.tries) == TRIES_MAX
    waits = [after - before for before, after in zip(servers.tries, servers.tries[1:], strict=False)]
    assert waits == sorted(waits)
    assert said[-1] == "postgres is back"


def test_after_the_last_try_the_supervisor_gives_up_and_says_why() -> None:
    servers = Servers(failures=TRIES_MAX)
    restarts = ServerRestarts(servers, lambda line: None)
    servers.gone["clickhouse"] = 1
    with pytest.raises(EmbeddedError, match=rf"clickhouse could not be started again in {TRIES_MAX} tries: its port is taken"):
        looked(servers, restarts, 120.0)
    assert len(servers.tries) == TRIES_MAX


def test_a_server_that_keeps_ending_waits_longer_and_one_that_ran_for_long_does_not() -> None:
    servers = Servers()
    restarts = ServerRestarts(servers, lambda line: None)
    for _ in range(3):
        servers.gone["kafka"] = 1
        looked(servers, restarts, 3.0)
    assert [after - before for before, after in zip(servers.tries, servers.tries[1:], strict=False)] == [3.5, 3.5]
    servers.now += SETTLED_S
    servers.gone["kafka"] = 1
    again = servers.now
    looked(servers, restarts, 1.0)
    assert servers.tries[-1] == again
