"""Serving requests to bill a period: what a run closed, exported and saw confirmed, as far as requests ask for it.

Nothing is sent from here. A run closes and exports as it always does, the months that are asked for too; this looks at what
came of it and takes each request on. A crash before it loses nothing: the next run sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection

from billing_exporter import ledger
from billing_exporter.closes import closes_of
from billing_exporter.gateway import Account
from billing_exporter.planning import Line, lines_of
from metering.billing import BEFORE_INVOICE, State
from runtime.crash import crash_point
from runtime.settings import Settings
from store import billing_requests
from store.billing_requests import BillingRequest

MONTHS_MAX = 12
"""Most months that a run exports because they are asked for; the others follow in the next run."""

_TAKEN = ("accepted", "confirmed", "closed", "carry_forward")
_SHOWN = ("confirmed", "closed", "carry_forward")


def wanted_months(connection: Connection[Any]) -> list[tuple[int, int]]:
    """Months in which the periods of open requests start, oldest first: a run exports them too."""
    found = {(one.period_start.year, one.period_start.month) for one in billing_requests.in_states(connection, BEFORE_INVOICE)}
    return sorted(found)[:MONTHS_MAX]


def serve(connection: Connection[Any], account: Account, now: datetime) -> int:
    """Takes requests as far as the close, the ledger and Stripe's summaries allow; commits each. Returns how many arrows."""
    moved = 0
    for request in billing_requests.in_states(connection, BEFORE_INVOICE):
        for state, reason in _seen(connection, account, request, now):
            if state is None:
                billing_requests.wait(connection, request, reason)
                break
            if not billing_requests.move(connection, request, state, now):
                break
            crash_point("billing.before_commit")
            moved += 1
            connection.commit()
            crash_point("billing.committed")
            again = billing_requests.by_id(connection, request.id)
            assert again is not None, "requests are never removed"
            request = again
        connection.commit()
    return moved


def serve_now(settings: Settings, account: Account) -> int:
    """The same, on a connection of its own: after Stripe's summaries were read."""
    with ledger.connect(settings) as connection:
        return serve(connection, account, datetime.now(UTC))


def _seen(
    connection: Connection[Any], account: Account, request: BillingRequest, now: datetime
) -> Iterator[tuple[State | None, str]]:
    """The states that a request has come to, one after the other, then what it waits for."""
    close = closes_of(connection, request.tenant_id).get(request.period_start)
    if close is None or close.state != "closed":
        yield None, "waits for the close: " + (close.reason if close is not None and close.reason else "it is not due yet")
        return
    if request.state == "requested":
        yield "closed", ""
    lines = lines_of(connection, account, request.tenant_id, close.period, now)
    if open_line := next((line for line in lines if not _taken(line)), None):
        yield None, f"waits for the export of {open_line.meter}: {open_line.state}, {open_line.reason or open_line.action}"
        return
    if request.state in ("requested", "closed"):
        yield "exported", ""
    if unseen := next((line for line in lines if line.state not in (*_SHOWN, "new")), None):
        yield None, f"waits until Stripe shows the total of {unseen.meter}"
        return
    yield "confirmed", ""


def _taken(line: Line) -> bool:
    """Whether Stripe has the period's total of a meter, or none is to be told."""
    if line.action == "no_customer":
        return False
    return line.action == "nothing" or (line.action == "keep" and line.state in _TAKEN)
