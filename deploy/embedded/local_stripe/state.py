"""The one SQLite file, and the one thread that may touch it.

Requests that wait at the same time share one transaction, so one disk flush serves them all; each stands in a savepoint of
its own, so one that fails takes nothing back from the others. An answer leaves only after the commit.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.local_stripe.problems import Answer, Problem

logger = logging.getLogger(__name__)

BATCH_MAX = 64
WAITING_MAX = 1_000

_SCHEMA = Path(__file__).with_name("state.sql")


class Busy(Exception):
    """Another process serves this data directory, or too many requests wait."""


class Clock:
    """The time that Stripe's rules see: the machine's, moved by an offset, or standing still. Kept in the state."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def now(self) -> int:
        """Seconds since 1970."""
        rows = dict(self._database.execute("SELECT name, value FROM facts WHERE name IN ('clock_at', 'clock_offset')").fetchall())
        if "clock_at" in rows:
            return int(rows["clock_at"])
        return int(time.time()) + int(rows.get("clock_offset", "0"))

    def stand_at(self, at: int) -> None:
        """From now on it is always `at`."""
        self._set(clock_at=at)

    def advance(self, seconds: int) -> None:
        """Moves on (a standing clock) or ahead (a running one)."""
        rows = dict(self._database.execute("SELECT name, value FROM facts WHERE name IN ('clock_at', 'clock_offset')").fetchall())
        if "clock_at" in rows:
            self._set(clock_at=int(rows["clock_at"]) + seconds)
        else:
            self._set(clock_offset=int(rows.get("clock_offset", "0")) + seconds)

    def run(self) -> None:
        """The machine's time again."""
        self._set()

    def _set(self, **facts: int) -> None:
        self._database.execute("DELETE FROM facts WHERE name IN ('clock_at', 'clock_offset')")
        self._database.executemany("INSERT INTO facts VALUES (?, ?)", [(name, str(value)) for name, value in facts.items()])


@dataclass(frozen=True)
class State:
    """What a handler works on. Only the state's thread ever holds one."""

    database: sqlite3.Connection
    clock: Clock
    account: str


Work = Callable[[State], Answer]


class Keeper:
    """Owns the file: `await keeper.do(work)` runs the work in a transaction and returns its answer after the commit."""

    def __init__(self, directory: Path) -> None:
        """Raises Busy when another process holds the directory."""
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise Busy(f"another local Stripe serves {directory}; stop it or choose another --data") from None
        self._file = directory / "stripe.sqlite3"
        self._waiting: queue.Queue[tuple[Work, asyncio.AbstractEventLoop, asyncio.Future[Answer]] | None] = queue.Queue(
            WAITING_MAX
        )
        self._thread = threading.Thread(target=self._serve, name="state", daemon=True)
        self._ready = threading.Event()
        self._failed: sqlite3.Error | None = None

    def start(self) -> None:
        """Opens the file. Raises sqlite3.Error when it cannot be read."""
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Returns when the last transaction is committed."""
        self._waiting.put(None)
        self._thread.join()
        self._lock.close()

    async def do(self, work: Work) -> Answer:
        """Runs the work. A Problem that it raises becomes its answer. Raises Busy when too many wait."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Answer] = loop.create_future()
        try:
            self._waiting.put_nowait((work, loop, done))
        except queue.Full:
            raise Busy(f"more than {WAITING_MAX} requests wait") from None
        return await done

    def _open(self) -> State:
        database = sqlite3.connect(self._file, isolation_level=None, cached_statements=256)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA.read_text())
        database.execute("INSERT OR IGNORE INTO facts VALUES ('account', ?)", (f"acct_{secrets.token_hex(8)}",))
        account = database.execute("SELECT value FROM facts WHERE name = 'account'").fetchone()[0]
        return State(database, Clock(database), str(account))

    def _serve(self) -> None:
        try:
            state = self._open()
        except sqlite3.Error as error:
            self._failed = error
            return
        finally:
            self._ready.set()
        with_more = True
        while with_more:
            batch = [self._waiting.get()]
            while batch[-1] is not None and len(batch) < BATCH_MAX:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            with_more = batch[-1] is not None
            todo = [item for item in batch if item is not None]
            if todo:
                answers = self._transaction(state, [work for work, _, _ in todo])
                for (_, loop, done), answer in zip(todo, answers, strict=True):
                    with suppress(RuntimeError):  # the loop is closed: the work is committed, and nobody waits for its answer
                        loop.call_soon_threadsafe(_settle, done, answer)
        state.database.close()

    def _transaction(self, state: State, works: list[Work]) -> list[Answer]:
        database = state.database
        try:
            database.execute("BEGIN IMMEDIATE")
            answers = [self._one(state, work) for work in works]
            database.execute("COMMIT")
        except sqlite3.Error:
            # a full disk, mostly: nothing of the batch is kept, and nobody is told that it was
            logger.exception("the state could not be written")
            if database.in_transaction:
                database.execute("ROLLBACK")
            return [_BROKEN for _ in works]
        return answers

    def _one(self, state: State, work: Work) -> Answer:
        state.database.execute("SAVEPOINT one")
        try:
            answer = work(state)
        except Problem as problem:
            state.database.execute("ROLLBACK TO one")
            answer = problem.answer()
        except sqlite3.Error:
            raise
        except Exception:
            # A bug in a handler must answer its own request and leave the others alone, as a server's does.
            logger.exception("a handler failed")
            state.database.execute("ROLLBACK TO one")
            answer = _BROKEN
        state.database.execute("RELEASE one")
        return answer


_BROKEN = Problem("The local Stripe failed; its log says why.", status=500, kind="api_error", should_retry=False).answer()


def _settle(done: asyncio.Future[Answer], answer: Answer) -> None:
    if not done.cancelled():
        done.set_result(answer)
