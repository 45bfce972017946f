"""Final invoices: which revision of a period one of them billed, and what becomes of the others. Pure.

Stripe never amends a final invoice, so it says for good what a period billed of a meter. What was counted later belongs to
the next period, also where our own close has not come yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from metering.export_states import EVENT_AGE_MAX, State

UNCHANGEABLE_AFTER = EVENT_AGE_MAX + timedelta(days=2)
"""So long after a period's end Stripe takes nothing more of it: its total stands, invoice or not."""

MAY_BE_THERE: frozenset[State] = frozenset(
    {"retry_wait", "ambiguous", "accepted", "confirmed", "superseded", "manual", "closed", "carry_forward"}
)
"""States of revisions that Stripe may have, once they were sent."""

TO_CLOSED: dict[State, tuple[State, ...]] = {
    "retry_wait": ("ambiguous", "accepted", "closed"),
    "ambiguous": ("accepted", "closed"),
    "accepted": ("closed",),
    "confirmed": ("closed",),
    "superseded": ("closed",),
    "manual": ("closed",),
}
"""How a revision that an invoice billed comes to `closed`. One in flight proved by it that it had arrived."""

TO_MANUAL: dict[State, tuple[State, ...]] = {
    "retry_wait": ("ambiguous", "manual"),
    "ambiguous": ("manual",),
    "accepted": ("manual",),
    "confirmed": ("manual",),
    "planned": ("manual",),
}

TO_SUPERSEDED: frozenset[State] = frozenset({"planned", "retry_wait", "ambiguous", "accepted", "confirmed", "rejected", "manual"})


@dataclass(frozen=True)
class Told:
    """A revision of a (tenant, meter, period)."""

    id: int
    revision: int
    shown: int
    """What Stripe shows once it has this one: its value, under `sum` with those before it."""
    total: Decimal
    state: State
    first_sent_at: datetime | None


@dataclass(frozen=True)
class Billed:
    """What an invoice says of a period: it billed `revision` (None: nothing of ours), or a number that nobody sent."""

    revision: Told | None
    reason: str
    """Empty when the invoice agrees with the ledger."""


def billed_by(revisions: Sequence[Told], quantity: int, finalized_at: datetime, invoice: str) -> Billed:
    """The revision behind an invoice's quantity: the newest one that was sent before it was final and says the same.

    Which answer came when does not decide: one that was sent a second before may have come a second after. A quantity of
    0 that no revision explains is an event that Stripe took and never counted, so nothing was billed. Any other one is
    for a person, beside the newest revision that Stripe may have.
    """
    there = [one for one in revisions if one.first_sent_at is not None and one.state in MAY_BE_THERE]
    before = [one for one in there if one.first_sent_at is not None and one.first_sent_at <= finalized_at]
    for one in reversed(before):
        if one.shown == quantity:
            return Billed(one, "")
    if quantity == 0:
        return Billed(None, "")
    newest = next((one for one in reversed(there) if one.state != "superseded"), None)
    said = "nothing" if newest is None else str(newest.shown)
    return Billed(newest, f"drift: the final invoice {invoice} billed {quantity}, the ledger says {said}")
