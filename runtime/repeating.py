"""How a loop beside a server lives: one connection, turn after turn, and anew when Postgres was away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from runtime import metrics
from runtime.life import Backoff

logger = logging.getLogger(__name__)

AWAY_MOST_S = 30.0


def repeat_until(
    stop: threading.Event,
    stage: str,
    what: str,
    connect: Callable[[], psycopg.Connection[Any]],
    turn: Callable[[psycopg.Connection[Any]], float],
) -> None:
    """Blocks until `stop` is set, a turn's time at most after it. `turn` says how long to wait before the next one.

    It outlives an absent Postgres: a turn that raises psycopg.Error is repeated on a new connection.
    """
    backoff = Backoff(most_s=AWAY_MOST_S)
    while not stop.is_set():
        try:
            with connect() as connection:
                while not stop.is_set():
                    wait_s = turn(connection)
                    backoff.reset()
                    stop.wait(wait_s)
        except psycopg.Error as error:
            metrics.RETRIES.labels(stage, "postgres").inc()
            problem = str(error).strip() or type(error).__name__
            logger.warning("postgres is away; tried again", extra={"what": what, "error": problem})
            stop.wait(backoff.wait_s())
        except Exception:
            # The last resort: a defect in a turn must end neither the loop nor the process, which answers requests.
            metrics.RETRIES.labels(stage, "defect").inc()
            logger.exception("a turn failed; tried again", extra={"what": what})
            stop.wait(AWAY_MOST_S)
