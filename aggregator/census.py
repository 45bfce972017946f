"""From time to time: what is to be seen in Postgres and shown as a metric, whoever wrote it there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from runtime import metrics
from runtime.settings import Settings
from store import reconcile_runs

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
_SHOWN_MAX = 10


def look(connection: psycopg.Connection[Any], usage_types_many: int) -> None:
    """Sets the gauges: the last reconcile's drift, and the tenants with very many usage types."""
    run = reconcile_runs.latest(connection)
    if run is not None:
        metrics.RECONCILED_AT.set(run.at.timestamp())
        for invariant, findings in run.findings.items():
            metrics.DRIFT.labels(invariant).set(findings)
    # Every tenant and type has one running total.
    many = connection.execute(
        "SELECT tenant_id, count(*) FROM usage_totals GROUP BY tenant_id HAVING count(*) > %s ORDER BY 2 DESC",
        (usage_types_many,),
    ).fetchall()
    metrics.TENANTS_WITH_MANY_TYPES.set(len(many))
    if many:
        logger.warning(
            "tenants with very many usage types; is an id part of the type?",
            extra={"tenants": len(many), "most": [f"{tenant}: {types}" for tenant, types in many[:_SHOWN_MAX]]},
        )


def look_until(stop: threading.Event, connect: Callable[[], psycopg.Connection[Any]], settings: Settings) -> None:
    """Blocks until `stop` is set; outlives an absent Postgres. Harmless beside other copies."""
    while not stop.is_set():
        try:
            with connect() as connection:
                look(connection, settings.usage_types_many)
        except psycopg.Error as error:
            metrics.RETRIES.labels("aggregate", "postgres").inc()
            logger.warning("the counters were not looked over; done again in a minute", extra={"problem": str(error)})
        stop.wait(LOOK_EVERY_S)
