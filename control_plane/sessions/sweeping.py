"""The sweeper of sessions: whoever was not heard of in time is charged what was reported, and gets the rest back."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import psycopg

from control_plane.parts import Parts
from control_plane.sessions import service
from control_plane.unit import STAGE
from runtime import metrics, postgres
from runtime.repeating import repeat_until

logger = logging.getLogger(__name__)

BATCH_MAX: Final = 25
"""Sessions of one transaction: the accounts of all of them are locked until it ends, and other sweepers wait for these."""
IDLE_S: Final = 1.0


def sweep_sessions(parts: Parts, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Outlives an absent Postgres. Safe beside other copies: each skips what another ends."""

    def connect() -> psycopg.Connection[Any]:
        return postgres.connect(parts.settings, autocommit=True)

    repeat_until(stop, STAGE, "session sweeper", connect, lambda connection: _turn(connection, parts.settings.topic_events))


def _turn(connection: psycopg.Connection[Any], topic: str) -> float:
    """A batch; how long to wait before the next one. Raises psycopg.Error."""
    with connection.transaction():
        swept = service.sweep(connection, BATCH_MAX, topic)
    if swept:
        metrics.SESSIONS.labels("expired").inc(swept)
        logger.info("sessions expired", extra={"sessions": swept})
    return 0.0 if swept == BATCH_MAX else IDLE_S
