"""What the ledger and the rates refuse, as the control plane says it: one table for every surface and noun."""

from __future__ import annotations

from typing import Final

from control_plane.refusals import Kind, Refusal
from metering.credits import Insufficient
from store.credits import CreditsRefused
from store.holds import decimal_of
from store.rates import RateRefused

_KINDS: Final[dict[str, Kind]] = {
    "idempotency_key_reused": "unprocessable",
    "unknown_hold": "not_found",
    "unknown_model": "invalid",
    "unknown_operation": "invalid",
    "rate_not_valid": "invalid",
}
"""By code; what is not in here is a conflict with what stands."""


def refused(error: CreditsRefused | Insufficient | RateRefused) -> Refusal:
    """The refusal to be raised in its place."""
    if isinstance(error, Insufficient):
        details = {"requiredCredits": decimal_of(error.asked), "spendableCredits": decimal_of(error.spendable)}
        return Refusal("payment_required", error.code, str(error), details)
    return Refusal(_KINDS.get(error.code, "conflict"), error.code, str(error))
