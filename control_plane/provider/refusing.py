"""What a failed call to the provider means for whoever asked us."""

from __future__ import annotations

from typing import assert_never

from control_plane.provider.errors import UNSUPPORTED, ProviderError
from control_plane.refusals import Refusal

_NOT_PAID = frozenset(
    {"card_declined", "expired_card", "incorrect_cvc", "insufficient_funds", "processing_error", "authentication_required"}
)


def refusal_of(error: ProviderError) -> Refusal:
    """The refusal, with the remedy; the provider's own code stands in its details."""
    details = {"provider_code": error.code}
    match error.kind:
        case "refused" if error.code in _NOT_PAID:
            return Refusal("payment_required", error.code, f"{error.message} Use another payment method.", details)
        case "refused" if error.code == UNSUPPORTED:
            return Refusal("precondition", UNSUPPORTED, error.message, details)
        case "refused" if "payment source or default payment method" in error.message:
            return Refusal(
                "payment_required",
                "no_payment_method",
                "There is nothing to charge: add a payment method first, or name one as payment_method_id.",
                details,
            )
        case "refused":
            return Refusal("invalid", "provider_refused", f"The payment provider refused: {error.message}", details)
        case "not_found":
            return Refusal("not_found", "not_found", f"The payment provider knows nothing of it: {error.message}", details)
        case "rate_limited" | "away":
            return Refusal(
                "unavailable", "provider_away", "The payment provider cannot be asked now; nothing was done. Try again.", details
            )
        case "ambiguous":
            return Refusal(
                "unavailable",
                "provider_unclear",
                "The payment provider did not say whether it was done. It is looked after; ask again to see what became of it.",
                details,
            )
        case _:
            assert_never(error.kind)
