"""The loop that writes lots of credits down when they have expired. Nobody waits for it: no read counts them before."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import psycopg

from control_plane.parts import Parts
from control_plane.unit import STAGE
from runtime import postgres
from runtime.repeating import repeat_until
from store import credits
from store.steps import run as run_steps

logger = logging.getLogger(__name__)

LOTS_MAX: Final = 200
EVERY_S: Final = 5.0


def run(parts: Parts, stop: threading.Event) -> None:
    """Until `stop`. Safe beside other copies: accounts that somebody has locked are left to a later turn."""
    repeat_until(stop, STAGE, "credit expiry", lambda: postgres.connect(parts.settings, autocommit=True), turn)


def turn(connection: psycopg.Connection[Any]) -> float:
    """A batch; how long to wait before the next one. Raises psycopg.Error."""
    with connection.transaction():
        accounts = run_steps(connection, credits.expire_due(LOTS_MAX))
    if accounts:
        logger.info("credits have expired", extra={"accounts": accounts})
    return EVERY_S if accounts < LOTS_MAX else 0.0
