"""Promo codes: whether a code may be redeemed. Pure; the count is settled under the lock of the code's row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Reason = Literal[
    "inactive", "not_started", "expired", "used_up", "used_by_organization", "wrong_plan", "wrong_currency", "not_ready"
]

SAYS: Final[dict[Reason, str]] = {
    "inactive": "This code is not given out any more; use another one.",
    "not_started": "This code is not valid yet; try again when it is.",
    "expired": "This code has expired; use another one.",
    "used_up": "Every use of this code is taken; use another one.",
    "used_by_organization": "The organization has used this code as often as it may; use another one.",
    "wrong_plan": "This code is not for this plan; choose a plan that it is for.",
    "wrong_currency": "This code is not for this currency; use another one.",
    "not_ready": "This code is not known to the payment provider yet; try again shortly.",
}
"""What each reason says to whoever wants to redeem."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is promised with a code, and how much of it is taken."""

    active: bool
    ready: bool
    """The payment provider knows it."""
    starts_at: datetime | None
    expires_at: datetime | None
    max_redemptions: int | None
    redeemed: int
    max_per_organization: int
    plan_ids: frozenset[str]
    """Empty: every plan."""
    currency: str | None
    """None: every currency."""


def refused(terms: Terms, now: datetime, used: int, plan_id: str | None, currency: str | None) -> Reason | None:
    """Why it may not be redeemed; None where it may. `used`: how often the organization has used it.

    A plan or a currency that is not said yet (None) is not held against the code.
    """
    if not terms.active:
        return "inactive"
    if terms.starts_at is not None and now < terms.starts_at:
        return "not_started"
    if terms.expires_at is not None and now >= terms.expires_at:
        return "expired"
    if terms.max_redemptions is not None and terms.redeemed >= terms.max_redemptions:
        return "used_up"
    if used >= terms.max_per_organization:
        return "used_by_organization"
    if terms.plan_ids and plan_id is not None and plan_id not in terms.plan_ids:
        return "wrong_plan"
    if terms.currency is not None and currency is not None and currency != terms.currency:
        return "wrong_currency"
    return None if terms.ready else "not_ready"
