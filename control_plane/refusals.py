"""Why a request of the control plane ends without its result: one exception for every surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal[
    "invalid",
    "unauthenticated",
    "payment_required",
    "forbidden",
    "not_found",
    "conflict",
    "precondition",
    "too_large",
    "unprocessable",
    "exhausted",
    "unavailable",
]
"""What sort of refusal it is; each surface has one table from these to its own statuses."""


class Refusal(Exception):
    """The request ends with this. `code` is for programs, the message says what was found and names the remedy.

    Neither the message nor the details hold a secret, or what the client sent where a secret could stand.
    """

    def __init__(
        self,
        kind: Kind,
        code: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.code = code
        self.message = message
        self.details = dict(details or {})
        self.retry_after_s = retry_after_s


class StoreAway(Refusal):
    """Postgres did not answer. Whether the transaction under way was committed is not known: send the same again."""

    def __init__(self) -> None:
        super().__init__(
            "unavailable",
            "store_unavailable",
            "Postgres does not answer in time; whether it was done is not known. Send the same again shortly.",
            retry_after_s=1,
        )


def not_found(what: str) -> Refusal:
    """For what does not exist and for what is another tenant's alike: which of the two is none of the caller's business."""
    return Refusal("not_found", "not_found", f"There is no such {what} in your scope; check its id.")
