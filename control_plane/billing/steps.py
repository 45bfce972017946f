"""The billing workflow, one step at a time. Each step is a transaction of its own and takes at most one arrow; a crash before or
after any of them is followed by the same step again, which finds it done.

1. While the exporter closes, exports and sees the total confirmed: wait. No meter event is sent from here.
2. Look for the period's invoice: paid, or not to be collected, or wait.
3. Paid: mark the cycle as completed, audited.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, assert_never

from control_plane.billing.service import complete
from control_plane.unit import Actor, Unit, Units
from metering.billing import InvoiceStatus, after_invoice
from metering.periods import Period
from runtime.crash import crash_point
from store import billing_requests
from store.billing_requests import BillingRequest

ACTOR = Actor("loop billing")

Step = Literal["moved", "waits", "done"]


class Invoices(Protocol):
    """What is known of a tenant's invoices."""

    def of_period(self, unit: Unit, tenant_id: str, period: Period) -> tuple[InvoiceStatus, str | None]:
        """How the invoice of a period stands, and its id."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """What a runner needs. For any thread."""

    units: Units
    invoices: Invoices

    def advance(self, request_id: int, now: datetime) -> Step:
        """One step. Raises StoreAway; then it may or may not have been done, and is taken again."""
        with self.units.begin(ACTOR) as unit:
            request = billing_requests.by_id(unit.pg, request_id)
            step: Step = "done" if request is None else self._step(unit, request, now)
            if step == "moved":
                crash_point("billing.before_commit")
        if step == "moved":
            crash_point("billing.committed")
        return step

    def _step(self, unit: Unit, request: BillingRequest, now: datetime) -> Step:
        match request.state:
            case "completed":
                return "done"
            case "requested" | "closed" | "exported":  # 1.
                return "waits"
            case "confirmed" | "uncollected":  # 2.
                status, invoice_id = self.invoices.of_period(unit, request.tenant_id, request.period)
                state, reason = after_invoice(status)
                if state is None or state == request.state:
                    billing_requests.wait(unit.pg, request, reason)
                    return "waits"
                billing_requests.move(unit.pg, request, state, now, reason=reason, invoice_id=invoice_id)
                return "moved"
            case "paid":  # 3.
                complete(unit, request, now)
                return "moved"
            case _:
                assert_never(request.state)
