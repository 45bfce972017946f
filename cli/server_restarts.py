"""Servers that ended by themselves, started again: at once, then after waits that grow, and not for ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from deploy.embedded.errors import EmbeddedError
from runtime.life import Backoff

TRIES_MAX = 6
"""In a row, for one server. With the waits between them they last half a minute and more."""
SETTLED_S = 30.0
"""A server that ran this long is healthy: when it ends again, it has all its tries again."""


class Servers(Protocol):
    """What is asked of the stack."""

    def ended(self) -> Mapping[str, int]: ...
    def restart(self, name: str) -> int: ...


@dataclass
class _Server:
    """How the restarts of one server go."""

    tries: int = 0
    try_at: float = 0.0
    down: bool = False
    back_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 16.0))


class ServerRestarts:
    """Belongs to the main thread, as the stack does; call `look` again and again."""

    def __init__(self, servers: Servers, say: Callable[[str], None]) -> None:
        self._stack, self._say = servers, say
        self._servers: dict[str, _Server] = {}

    def look(self, clock: Callable[[], float]) -> None:
        """Tries each server that is due once. Blocks while one starts. Raises EmbeddedError after the last try."""
        for name, status in self._stack.ended().items():
            server = self._servers.setdefault(name, _Server())
            if not server.down:
                if clock() - server.back_at > SETTLED_S:
                    server.tries = 0
                    server.backoff.reset()
                server.down = True
                server.try_at = clock() if server.tries == 0 else clock() + server.backoff.wait_s()
                self._say(f"{name} ended by itself ({_status(status)}); starting it again")
        for name, server in self._servers.items():
            if server.down and clock() >= server.try_at:
                self._try(name, server, clock)

    def _try(self, name: str, server: _Server, clock: Callable[[], float]) -> None:
        server.tries += 1
        try:
            self._stack.restart(name)
        except (EmbeddedError, OSError) as error:
            if server.tries >= TRIES_MAX:
                raise EmbeddedError(f"{name} could not be started again in {server.tries} tries: {error}") from error
            wait_s = server.backoff.wait_s()
            server.try_at = clock() + wait_s
            self._say(f"{name} did not come back; try {server.tries + 1} of {TRIES_MAX} in {wait_s:.1f} s: {error}")
            return
        server.down, server.back_at = False, clock()
        self._say(f"{name} is back")


def _status(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit {status}"
