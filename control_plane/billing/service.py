"""What is asked of billing: to bill an account's month, how far it is, and that it is done.

The work itself is the exporter's (close, export, confirmation) and the workflow's (`steps.py`); nothing here sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from control_plane.refusals import Refusal, not_found
from control_plane.unit import Unit
from metering.billing import State
from metering.periods import Period
from store import billing_requests
from store.audit import Entry
from store.billing_requests import BillingRequest
from store.tenant_periods import tenant_period, usage_of


@dataclass(frozen=True, slots=True)
class Billing:
    """A request and what it bills. `reason` says what it waits for, or what became of it."""

    app_id: str
    tenant_id: str
    period_start: date
    period_end: date
    state: State
    reason: str | None
    invoice_id: str | None
    usage: Mapping[str, Decimal]
    requested_at: datetime
    changed_at: datetime


def request_billing(unit: Unit, app_id: str, period: str, now: datetime | None = None) -> Billing:
    """Asks that the account's period that starts in a month ("2026-10") be billed. A period has one request: asking again
    answers with that one, wherever it stands."""
    tenant_id, named = _period(unit, app_id, period)
    if (now or datetime.now(UTC)) < named.ends_at:
        raise Refusal(
            "precondition",
            "period_not_over",
            f"The period runs until {named.end} (00:00 UTC); ask for it then. What is counted so far stands in the summaries.",
        )
    request, made = billing_requests.ask(unit.pg, tenant_id, app_id, named, unit.actor.who)
    if made:
        unit.audit(
            Entry("billing.requested", f"{tenant_id} {named.start}", None, {"app_id": app_id, "period_end": str(named.end)})
        )
    return _shown(unit, request)


def billing_status(unit: Unit, app_id: str, period: str) -> Billing:
    """How far it is."""
    return _shown(unit, _request(unit, app_id, period))


def update_status(unit: Unit, app_id: str, period: str, status: str) -> Billing:
    """Ends a billing cycle: `completed`, once its invoice is paid, or after a person has settled one that was not collected.
    Saying it again changes nothing."""
    if status != "completed":
        raise Refusal("invalid", "bad_status", "A billing cycle is marked as completed, and as nothing else; send completed.")
    request = _request(unit, app_id, period)
    complete(unit, request, datetime.now(UTC))
    return _shown(unit, _request(unit, app_id, period))


def complete(unit: Unit, request: BillingRequest, now: datetime) -> None:
    """The last arrow, audited; nothing where it was taken before."""
    if request.state == "completed":
        return
    if request.state not in ("paid", "uncollected"):
        raise Refusal(
            "precondition",
            "not_paid",
            f"The billing cycle is {request.state} ({request.reason or 'under way'}); it completes once its invoice is paid.",
        )
    if billing_requests.move(unit.pg, request, "completed", now, reason=request.reason):
        unit.audit(
            Entry(
                "billing.completed",
                f"{request.tenant_id} {request.period_start}",
                {"state": request.state},
                {"state": "completed", "invoice_id": request.invoice_id},
            )
        )


def _request(unit: Unit, app_id: str, period: str) -> BillingRequest:
    tenant_id, named = _period(unit, app_id, period)
    request = billing_requests.of_period(unit.pg, tenant_id, named.start)
    if request is None:
        raise Refusal("not_found", "no_billing_request", "Nobody has asked to bill this period; ask for MonthlyBilling first.")
    return request


def _period(unit: Unit, app_id: str, period: str) -> tuple[str, Period]:
    row = unit.pg.execute("SELECT tenant_id FROM accounts WHERE app_id = %s", (app_id,)).fetchone()
    if row is None:
        raise not_found("account")
    try:
        return row[0], tenant_period(unit.pg, row[0], period)
    except ValueError as error:
        raise Refusal("invalid", "bad_period", f"The period is not clear: {error}.") from None


def _shown(unit: Unit, request: BillingRequest) -> Billing:
    return Billing(
        request.app_id,
        request.tenant_id,
        request.period_start,
        request.period_end,
        request.state,
        request.reason,
        request.invoice_id,
        usage_of(unit.pg, request.tenant_id, request.period),
        request.requested_at,
        request.changed_at,
    )
