"""The exporter as a process: it runs at the times of a cron expression, catches up what it missed, and tells how it went.

Each turn of the schedule has a row in `export_runs`, unique by the moment it was due:

1. the newest moment that has passed is due, unless its row says that it was run; older ones that were missed are covered
   by it, for a run closes every period that is due and plans every period since the last complete run;
2. take the advisory lock of runs, or wait: another copy has it. With the lock look again;
3. write the row, run, compare with Stripe's summaries, write how it ended. A failed run is tried again after a growing wait.

A process that dies anywhere leaves a row without an end: the next one takes that moment up again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import psycopg
from cronsim import CronSim, CronSimError
from psycopg import Connection

from billing_exporter.gateway import GatewayError
from billing_exporter.truth import TruthAway
from runtime import metrics, postgres
from runtime.exits import MeterlineExit
from runtime.life import Backoff
from runtime.locks import AdvisoryLock
from runtime.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

Outcome = Literal["done", "open", "failed"]

RETRY_FIRST_S, RETRY_MOST_S = 5.0, 300.0
LOCKED_WAIT_S = 5.0
"""How long a copy waits before it asks again for the lock that another one holds."""
WAIT_MOST_S = 60.0
"""Longest wait at a time, so that a clock that is set right is noticed."""
RUNS_KEPT = timedelta(days=400)
DETAIL_CHARS_MAX = 500


@dataclass(frozen=True)
class Turn:
    """One turn of the schedule, and how far back it has to plan."""

    due_at: datetime
    since: date | None


@dataclass(frozen=True)
class Ended:
    """How a turn ended."""

    outcome: Outcome
    detail: str


Work = Callable[[Turn], Ended]
"""One run. May raise MeterlineExit, GatewayError, TruthAway and psycopg.Error: then the turn has failed and is tried again."""


class Cron:
    """Moments of a cron expression, in UTC. Raises SettingsError for one that is none."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        try:
            next(CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration) as error:
            raise SettingsError(
                f"METERLINE_EXPORT_CRON={expression!r} is no schedule ({str(error) or 'it never comes'}):"
                " write five fields, as in 5 * * * *"
            ) from error

    def after(self, moment: datetime) -> datetime:
        """The next moment later than this one."""
        return next(CronSim(self._expression, moment))

    def latest(self, moment: datetime) -> datetime:
        """The newest moment that is not later than this one."""
        return next(CronSim(self._expression, moment + timedelta(microseconds=1), reverse=True))


class Schedule:
    """`serve` is for the main thread of a process; `turn` is one look, for whoever brings a loop of their own."""

    def __init__(
        self,
        settings: Settings,
        work: Work,
        stop: threading.Event,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings, self._work, self._stop, self._now = settings, work, stop, now
        self._cron = Cron(settings.export_cron)
        self._jitter = timedelta(seconds=random.uniform(0, settings.export_jitter_s))  # noqa: S311 - spreads calls, hides nothing
        """This process is so much later than the schedule says, always."""
        self._retry = Backoff(RETRY_FIRST_S, RETRY_MOST_S)
        self.problem: str | None = None
        """Why the last run failed; None when it did not."""

    def serve(self) -> None:
        """Runs until it is told to stop. No error of a dependency ends it."""
        while not self._stop.is_set():
            try:
                wait_s = self.turn()
            except psycopg.Error as error:
                self.problem, wait_s = f"Postgres: {error}", self._retry.wait_s()
                logger.warning("the schedule cannot be read", extra={"error": str(error), "wait_s": wait_s})
            self._stop.wait(wait_s)

    def turn(self) -> float:
        """Runs what is due; returns how long to wait before the next look, in seconds."""
        with postgres.connect(self._settings, autocommit=True) as connection:
            if self._due(connection) is None:
                return self._until_next()
            locked = connection.execute("SELECT pg_try_advisory_lock(%s)", (AdvisoryLock.EXPORT_RUN,)).fetchone()
            if not locked or not locked[0]:
                return LOCKED_WAIT_S
            turn = self._due(connection)
            if turn is None:
                return self._until_next()
            self._begin(connection, turn)
            ended = self._run(turn)
            self._end(connection, turn, ended)
        if ended.outcome == "failed":
            return self._retry.wait_s()
        self._retry.reset()
        return self._until_next()

    def _due(self, connection: Connection[Any]) -> Turn | None:
        due_at = self._cron.latest(self._now() - self._jitter)
        done = connection.execute("SELECT max(due_at) FROM export_runs WHERE outcome IN ('done', 'open')").fetchone()
        last: datetime | None = done[0] if done else None
        if last is not None and last >= due_at:
            return None
        return Turn(due_at, None if last is None else last.astimezone(UTC).date())

    def _begin(self, connection: Connection[Any], turn: Turn) -> None:
        now = self._now()
        connection.execute(
            "INSERT INTO export_runs (due_at, started_at) VALUES (%s, %s) ON CONFLICT (due_at)"
            " DO UPDATE SET started_at = excluded.started_at, ended_at = NULL, outcome = NULL, detail = NULL",
            (turn.due_at, now),
        )
        connection.execute("DELETE FROM export_runs WHERE due_at < %s", (now - RUNS_KEPT,))

    def _run(self, turn: Turn) -> Ended:
        logger.info("a scheduled run begins", extra={"due_at": turn.due_at.isoformat()})
        try:
            ended = self._work(turn)
        except (MeterlineExit, GatewayError, TruthAway, psycopg.Error) as error:
            ended = Ended("failed", f"{type(error).__name__}: {error}")
        self.problem = ended.detail if ended.outcome == "failed" else None
        level = logging.INFO if ended.outcome == "done" else logging.WARNING
        logger.log(level, "a scheduled run has ended", extra={"outcome": ended.outcome, "detail": ended.detail})
        return ended

    def _end(self, connection: Connection[Any], turn: Turn, ended: Ended) -> None:
        now = self._now()
        connection.execute(
            "UPDATE export_runs SET ended_at = greatest(%s, started_at), outcome = %s, detail = %s WHERE due_at = %s",
            (now, ended.outcome, ended.detail[:DETAIL_CHARS_MAX], turn.due_at),
        )
        metrics.EXPORT_RUNS.labels(ended.outcome).inc()
        if ended.outcome != "failed":
            metrics.EXPORT_RUN_ENDED.set(now.timestamp())

    def _until_next(self) -> float:
        here = self._now() - self._jitter
        return min((self._cron.after(here) - here).total_seconds(), WAIT_MOST_S)
