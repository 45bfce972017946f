"""Sessions: a connection that outlives the request, with its temporary tables, its SET and its USE.

A session serves one request at a time, belongs to one user, and ends when it has not been used for its timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.embedded.clickhouse.connections import Connection
from deploy.embedded.clickhouse.failures import Failure

_KEPT_MAX = 64


class Session:
    """What one session keeps. A read-only session has no connection of its own: it can hold nothing but a database."""

    def __init__(self, connection: Connection | None) -> None:
        self.connection = connection
        self.database: str | None = None
        self.kept: list[bytes] = []
        self.holds_state = False
        self.busy = False
        self.ends_at = 0.0

    def keep(self, text: bytes) -> None:
        """Remember a SET. Raises Failure when a session sets more than is sensible."""
        if len(self.kept) >= _KEPT_MAX:
            raise Failure(36, f"a session keeps at most {_KEPT_MAX} SET statements: begin a new one")
        self.kept.append(text)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


class Sessions:
    """All sessions of a gateway, bounded in number. For one event loop; `now` is a monotonic clock in seconds."""

    def __init__(self, connect: Callable[[], Connection], sessions_max: int = 256) -> None:
        self._connect = connect
        self._sessions: dict[tuple[str, bool, str], Session] = {}
        self._max = sessions_max

    @contextmanager
    def use(
        self, user: str, session_id: str, *, readonly: bool, check: bool, timeout_s: int, now: Callable[[], float]
    ) -> Iterator[Session]:
        """The session, made when new. Raises Failure: not there although checked for, in use by another request, too many."""
        self.sweep(now())
        key = (user, readonly, session_id)
        session = self._sessions.get(key)
        if session is None:
            if check:
                raise Failure(372, f"Session {session_id[:64]} not found")
            self._make_room()
            session = self._sessions[key] = Session(None if readonly else self._connect())
        if session.busy:
            raise Failure(373, f"Session {session_id[:64]} is locked by a concurrent client")
        session.busy = True
        try:
            yield session
        finally:
            session.busy = False
            session.ends_at = now() + timeout_s

    def sweep(self, now: float) -> None:
        """End the sessions whose time is over."""
        for key in [key for key, session in self._sessions.items() if not session.busy and session.ends_at <= now]:
            self._sessions.pop(key).close()

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _make_room(self) -> None:
        """Give up the oldest idle session that holds nothing, so that clients which only name one do not fill the place."""
        if len(self._sessions) < self._max:
            return
        idle = [(session.ends_at, key) for key, session in self._sessions.items() if not session.busy and not session.holds_state]
        if not idle:
            raise Failure(202, f"Too many sessions: {self._max} are open; close some or wait for their timeout")
        self._sessions.pop(min(idle)[1]).close()
