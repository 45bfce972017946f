"""The retention loop: rows that have done their work go after their time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg

from runtime import metrics
from runtime.settings import Settings
from store import retention

logger = logging.getLogger(__name__)

SWEEP_EVERY_S = 3600.0
SWEEP_ON_S = 1.0
"""While a sweep left more than it may take at a time."""


def sweep_until(stop: threading.Event, connect: Callable[[], psycopg.Connection[Any]], settings: Settings) -> None:
    """Blocks until `stop` is set; outlives an absent Postgres. Safe beside other copies."""
    wait_s = SWEEP_ON_S
    while not stop.wait(wait_s):
        wait_s = SWEEP_EVERY_S
        try:
            with connect() as connection:
                swept = retention.sweep(connection, settings, datetime.now(UTC))
        except psycopg.Error as error:
            metrics.RETRIES.labels("aggregate", "postgres").inc()
            logger.warning("old rows were not dropped; tried again in an hour", extra={"problem": str(error)})
            continue
        for table, dropped in swept.rows.items():
            metrics.ROWS_DROPPED.labels(table).inc(dropped)
        if any(swept.rows.values()):
            logger.info("old rows dropped", extra=dict(swept.rows))
        if swept.more:
            wait_s = SWEEP_ON_S
