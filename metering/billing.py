"""Billing a tenant's period on request: its states, and where facts take it. Pure.

    requested -> closed -> exported -> confirmed -> paid -> completed
                                       confirmed -> uncollected -> paid, or completed by a person

The exporter sees the first three arrows done, the billing workflow the others. Each arrow is taken once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

State = Literal["requested", "closed", "exported", "confirmed", "paid", "uncollected", "completed"]

MOVES: Mapping[State, frozenset[State]] = {
    "requested": frozenset({"closed"}),
    "closed": frozenset({"exported"}),
    "exported": frozenset({"confirmed"}),
    "confirmed": frozenset({"paid", "uncollected"}),
    "uncollected": frozenset({"paid", "completed"}),
    "paid": frozenset({"completed"}),
    "completed": frozenset(),
}

BEFORE_INVOICE: tuple[State, ...] = ("requested", "closed", "exported")
"""What waits for the exporter."""

InvoiceStatus = Literal["none", "draft", "open", "paid", "void", "uncollectible"]
"""none: no invoice of the period is known yet."""


_WEIGHT: tuple[InvoiceStatus, ...] = ("open", "draft", "uncollectible", "paid", "void")


def of_all(statuses: Collection[InvoiceStatus]) -> InvoiceStatus:
    """How a period stands that several invoices bill: settled once each is. A void one was replaced if another stands."""
    return next((one for one in _WEIGHT if one in statuses), "none")


def after_invoice(status: InvoiceStatus) -> tuple[State | None, str]:
    """Where a confirmed or uncollected request goes by its invoice (None: it stays), and why."""
    match status:
        case "paid":
            return "paid", ""
        case "void" | "uncollectible":
            return "uncollected", f"the invoice is {status}; a person completes it, or it is paid after all"
        case "none":
            return None, "waits for the invoice of the period"
        case "draft" | "open":
            return None, f"the invoice is {status}"
