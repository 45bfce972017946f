"""Requests to bill a tenant's period: asked by the control plane, served by the exporter. In the caller's transaction.

A (tenant, period) has one request, however often it is asked for. A state is left by whoever sees its end first; a second one
that saw the same finds that nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from metering.billing import State
from metering.periods import Period

OPEN_MAX = 10_000
"""Most requests that one look takes."""

_COLUMNS = "id, tenant_id, app_id, period_start, period_end, state, reason, invoice_id, requested_by, requested_at, changed_at"


@dataclass(frozen=True)
class BillingRequest:
    """A request as it stands."""

    id: int
    tenant_id: str
    app_id: str
    period_start: date
    period_end: date
    state: State
    reason: str | None
    invoice_id: str | None
    requested_by: str
    requested_at: datetime
    changed_at: datetime

    @property
    def period(self) -> Period:
        """What is billed."""
        return Period(self.period_start, self.period_end)


def ask(connection: Connection[Any], tenant_id: str, app_id: str, period: Period, who: str) -> tuple[BillingRequest, bool]:
    """The request of a period, and whether it is a new one."""
    made = connection.execute(
        "INSERT INTO billing_requests (tenant_id, app_id, period_start, period_end, requested_by) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (tenant_id, period_start) DO NOTHING RETURNING id",
        (tenant_id, app_id, period.start, period.end, who),
    ).fetchone()
    found = of_period(connection, tenant_id, period.start)
    assert found is not None, "it was made just now, or stood there"
    return found, made is not None


def of_period(connection: Connection[Any], tenant_id: str, period_start: date) -> BillingRequest | None:
    """The request of the period that starts on a day."""
    with connection.cursor(row_factory=class_row(BillingRequest)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM billing_requests WHERE tenant_id = %s AND period_start = %s".encode(),
            (tenant_id, period_start),
        ).fetchone()


def by_id(connection: Connection[Any], request_id: int) -> BillingRequest | None:
    """A request; None when there is none."""
    with connection.cursor(row_factory=class_row(BillingRequest)) as cursor:
        return cursor.execute(f"SELECT {_COLUMNS} FROM billing_requests WHERE id = %s".encode(), (request_id,)).fetchone()


def in_states(connection: Connection[Any], states: Sequence[State]) -> list[BillingRequest]:
    """Requests in these states, oldest period first."""
    with connection.cursor(row_factory=class_row(BillingRequest)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM billing_requests WHERE state = ANY(%s) ORDER BY period_start, id LIMIT %s".encode(),
            (list(states), OPEN_MAX),
        ).fetchall()


def due(connection: Connection[Any], most: int) -> list[int]:
    """Open requests to look at now, by the database's clock, those that waited longest first."""
    rows = connection.execute(
        "SELECT id FROM billing_requests WHERE state <> 'completed' AND look_at <= now() ORDER BY look_at, id LIMIT %s", (most,)
    )
    return [request_id for (request_id,) in rows]


def move(
    connection: Connection[Any],
    request: BillingRequest,
    to: State,
    now: datetime,
    *,
    reason: str | None = None,
    invoice_id: str | None = None,
) -> bool:
    """Takes a request on from the state that was seen; False when it is there no more."""
    found = connection.execute(
        "UPDATE billing_requests SET state = %s, reason = %s, invoice_id = coalesce(%s, invoice_id), changed_at = %s,"
        " look_at = now() WHERE id = %s AND state = %s",
        (to, reason or None, invoice_id, now, request.id, request.state),
    )
    return found.rowcount == 1


def wait(connection: Connection[Any], request: BillingRequest, reason: str) -> None:
    """Notes what a request waits for."""
    connection.execute(
        "UPDATE billing_requests SET reason = %(reason)s WHERE id = %(id)s AND state = %(state)s AND reason IS DISTINCT FROM"
        " %(reason)s",
        {"reason": reason, "id": request.id, "state": request.state},
    )


def look_again(connection: Connection[Any], request_id: int, after_s: float) -> None:
    """When the workflow looks at it next, by the database's clock."""
    connection.execute(
        "UPDATE billing_requests SET look_at = now() + make_interval(secs => %s) WHERE id = %s", (after_s, request_id)
    )


def open_ids(connection: Connection[Any]) -> list[int]:
    """Requests that are not completed, oldest first."""
    rows = connection.execute("SELECT id FROM billing_requests WHERE state <> 'completed' ORDER BY id LIMIT %s", (OPEN_MAX,))
    return [request_id for (request_id,) in rows]
