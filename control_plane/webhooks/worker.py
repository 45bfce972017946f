"""Works the inbox off. Several threads and several processes do it side by side.

1. Take rows that are due: each is then the taker's for a lease, so a worker that dies leaves nothing behind but time.
2. Do what they ask for. Two may do it for one object at once: what was read of a provider carries a ticket, and an older
   one changes nothing (`control_plane.provider.observing`).
3. Mark them done. Whoever dies between 2 and 3 has it done again, which changes nothing.

What fails is tried again with growing waits, and is dead after the last one, until somebody replays it.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

import psycopg

from control_plane.parts import Parts
from control_plane.provider.errors import ProviderError, RateLimited
from control_plane.refusals import Refusal
from control_plane.unit import STAGE
from control_plane.webhooks.handlers import handle, together
from runtime import metrics, postgres
from runtime.crash import crash_point
from runtime.repeating import repeat_until
from store import inbox
from store.inbox import Taken

logger = logging.getLogger(__name__)

BATCH_MAX: Final = 8
IDLE_S: Final = 0.2
AFTER_S_MAX: Final = 3_600.0
WAITS_S: Final = (1, 5, 15, 60, 300, 900, 3_600, 7_200, 14_400, 28_800)
"""From one try to the next, about 15 hours in all; after the last one it is dead."""


def wait_after(attempts: int) -> timedelta | None:
    """How long to wait after so many tries that failed; None: no more."""
    return None if attempts > len(WAITS_S) else timedelta(seconds=WAITS_S[attempts - 1])


def run(parts: Parts, stop: threading.Event) -> None:
    """A loop of `serve control-plane`. Outlives an absent Postgres and an absent provider."""
    worker = Worker(parts)

    def turn(connection: psycopg.Connection[Any]) -> float:
        return 0.0 if worker.turn(connection, stop) == BATCH_MAX else IDLE_S

    repeat_until(stop, STAGE, "webhooks", lambda: postgres.connect(parts.settings, autocommit=True), turn)


class Worker:
    """For one thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def turn(self, connection: psycopg.Connection[Any], stop: threading.Event) -> int:
        """Works on what is due, a batch at most; how many were taken. Raises psycopg.Error: they are taken again later."""
        with connection.transaction():
            taken = inbox.take(connection, BATCH_MAX)
        for _, rows in groupby(sorted(taken, key=together), key=together):
            if stop.is_set():
                # Their lease runs out, and somebody takes them again.
                break
            self._work(connection, list(rows))
        return len(taken)

    def _work(self, connection: psycopg.Connection[Any], rows: list[Taken]) -> None:
        outcome, error, least = self._tried(rows)
        crash_point("webhooks.handled")
        with connection.transaction():
            for row in rows:
                self._note(connection, row, outcome, error, least)

    def _tried(self, rows: list[Taken]) -> tuple[str, str, timedelta]:
        """(done, ignored or failed; what was wrong; how long to wait at least)."""
        try:
            return ("done" if handle(self._parts, rows) else "ignored"), "", timedelta(0)
        except RateLimited as limited:
            return "failed", f"{limited.code}: {limited.message}", timedelta(seconds=min(limited.after_s, AFTER_S_MAX))
        except ProviderError as error:
            return "failed", f"{error.code}: {error.message}", timedelta(0)
        except Refusal as refusal:
            return "failed", f"{refusal.code}: {refusal.message}", timedelta(0)
        except Exception as error:
            # A defect met with this webhook must not stop the others; the row says so until it is dead, and the log says why.
            logger.exception("a webhook could not be worked on", extra={"webhook": rows[-1].name.message_id})
            return "failed", f"defect: {type(error).__name__}; the log has the cause", timedelta(0)

    def _note(self, connection: psycopg.Connection[Any], row: Taken, outcome: str, error: str, least: timedelta) -> None:
        extra = {"source": row.name.source, "webhook": row.name.message_id, "kind": row.kind, "attempts": row.attempts}
        if outcome != "failed":
            inbox.done(connection, row.name)
            logger.info("webhook worked off", extra={**extra, "outcome": outcome})
        else:
            wait = wait_after(row.attempts)
            inbox.failed(connection, row.name, error, None if wait is None else max(wait, least))
            outcome = "dead" if wait is None else "failed"
            logger.warning("a webhook was not worked off", extra={**extra, "outcome": outcome, "error": error})
        metrics.WEBHOOKS.labels(row.name.source, outcome).inc()
