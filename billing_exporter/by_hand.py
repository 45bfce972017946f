"""What a person does about a row: try again what was refused, and say what became of one in `manual`. Audited by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, assert_never

from psycopg import Connection

from billing_exporter import finals, ledger
from billing_exporter.closes import closes_of
from billing_exporter.figures import lock_heads
from billing_exporter.gateway import Account
from billing_exporter.invoices import closed_total
from billing_exporter.ledger import Row
from metering.export_states import State, Step, plain

How = Literal["arrived", "lost", "settled"]
"""arrived: Stripe has it. lost: Stripe does not have it, so its total is planned anew. settled: it is billed otherwise, and the
period ends at this revision."""


class Unfit(Exception):
    """The row cannot be treated like that; the message says why and what to do."""


@dataclass(frozen=True)
class Retried:
    """What `retry` found."""

    refused: list[Row]
    """Rows that Stripe had refused; the next run plans their totals anew."""
    waiting: list[Row]
    """Rows that waited for their next try, which is now."""


def retry(
    connection: Connection[Any],
    account: Account,
    who: str,
    now: datetime,
    *,
    tenant: str | None = None,
    meter: str | None = None,
    starts: Sequence[date] | None = None,
) -> Retried:
    """Takes up again what was refused or waits, of all tenants or one. The caller commits."""
    ledger.acting(connection, who)
    found = [
        row
        for row in ledger.in_states(connection, account, ("rejected", "retry_wait"), starts)
        if tenant in (None, row.tenant_id) and meter in (None, row.meter)
    ]
    refused, waiting = [], []
    for row in found:
        if row.state == "rejected":
            if ledger.move_unleased(connection, row, Step("superseded", f"to be tried again: {row.reason or 'refused'}"), now):
                refused.append(row)
        elif ledger.try_now(connection, row, now):
            waiting.append(row)
    return Retried(refused, waiting)


def resolve(
    connection: Connection[Any], account: Account, row_id: int, how: How, reason: str, who: str, now: datetime
) -> tuple[Row, State]:
    """Moves a row from `manual`; returns it as it was, and its new state. The caller commits. Raises Unfit."""
    ledger.acting(connection, who)
    finals.lock_finals(connection)
    row = ledger.row_of(connection, account, row_id)
    if row is None:
        raise Unfit(f"there is no export {row_id} of this account; `meterline export status` shows each with its number")
    lock_heads(connection, account, [(row.customer_id, row.meter, row.tenant_id)])
    if row.state != "manual":
        raise Unfit(f"export {row_id} is {row.state}: only what is `manual` waits for a person")
    step = Step(_state(how), f"{how}, says {who}: {reason}")
    if how == "settled":
        _settle(connection, account, row, now)
    if not ledger.move_unleased(connection, row, step, now):
        raise Unfit(f"export {row_id} has moved meanwhile; look at it again")
    return row, step.state


def _state(how: How) -> State:
    match how:
        case "arrived":
            return "accepted"
        case "lost":
            return "superseded"
        case "settled":
            return "closed"
        case _:
            assert_never(how)


def _settle(connection: Connection[Any], account: Account, row: Row, now: datetime) -> None:
    """The period ends at this revision: what is counted later is billed in the next one."""
    if now < row.period.ends_at:
        raise Unfit(f"the period from {row.period_start} runs until {row.period_end}: say `arrived` or `lost` until then")
    known = finals.finals_of(connection, account, [(row.tenant_id, row.period_start)])
    if row.meter in known.get(row.tenant_id, {}):
        return  # an invoice cut the period off already; the row only comes to rest
    closes = closes_of(connection, row.tenant_id)
    own = closes.get(row.period_start)
    if own is not None and own.state == "closed":
        total = closed_total(connection, account, row.meter, own, closes)
        if total != row.exact_total:
            raise Unfit(
                f"the period was closed at {plain(total)}, and this revision stands for {plain(row.exact_total)}: say `lost`,"
                " run `meterline export run`, and settle the revision that it makes"
            )
        return
    without = ledger.shown_without(connection, [row.id])[row.id]
    told = without[0] + row.value if row.mode == "sum" else row.value
    finals.record(connection, account, row.tenant_id, row.meter, row.period, finals.BY_HAND, now, told, row.id, told, now)
