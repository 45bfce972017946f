"""Which test uses which operation of the services whose behaviour is offered here: the registry behind docs/seed-operations.md.

A test of this folder says so with `@seed("003", "POST /api/subscriptions", "used", "repeated")`. The table is read from the
decorators by `tests/e2e/seed_table.py`, without running anything; a name that is not listed here fails at import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeVar, get_args

Test = TypeVar("Test", bound=Callable[..., Any])

Shows = Literal["used", "wrong role", "other tenant", "bad input", "repeated"]
"""What a test shows of an operation: that it works, and that it holds against each of these."""

SHOWS: Final[tuple[str, ...]] = get_args(Shows)

SERVICES: Final[Mapping[str, str]] = {
    "000": "account service (gRPC)",
    "001": "accounting service (HTTP)",
    "003": "billing service (HTTP)",
    "004": "payment service (gRPC)",
}

OPERATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "000": (
        "CreateAccount",
        "ValidateApiKey",
        "RevealApiKey",
        "MonthlyBilling",
        "UpdateBillingStatus",
        "GetAccount",
        "GetSecret",
    ),
    "001": (
        "GET /api/credits/balance",
        "GET /api/credits/balance/{userId}",
        "POST /api/credits/check",
        "POST /api/credits/calculate",
        "POST /api/credits/allocate",
        "POST /api/credits/set",
        "DELETE /api/credits/remove",
        "PUT /api/credits/adjust",
        "POST /api/streaming-sessions/initialize",
        "POST /api/streaming-sessions/finalize",
        "POST /api/streaming-sessions/abort",
        "GET /api/streaming-sessions/active",
        "GET /api/streaming-sessions/active/{userId}",
        "GET /api/streaming-sessions/active/all",
        "GET /api/streaming-sessions/recent",
        "GET /api/streaming-sessions/recent/{userId}",
        "POST /api/usage/record",
        "GET /api/usage/stats",
        "GET /api/usage/stats/{userId}",
        "GET /api/usage/system-stats",
        "GET /api/health",
    ),
    "003": (
        "GET /api/subscriptions/{organizationId}",
        "POST /api/subscriptions",
        "PUT /api/subscriptions/{id}",
        "DELETE /api/subscriptions/{id}",
        "GET /api/plans",
        "GET /api/plans/{id}",
        "GET /api/plans/{id}/features",
        "GET /api/plans/{id}/limits",
        "POST /api/webhooks/stripe",
        "GET /health",
        "GET /ready",
        "promo codes",
        "invoices",
        "payment methods",
        "usage records",
        "audit",
    ),
    "004": (
        "CreateCustomer",
        "UpdateCustomer",
        "GetCustomer",
        "ListCustomers",
        "CreateSubscription",
        "UpdateSubscription",
        "CancelSubscription",
        "ReactivateSubscription",
        "RecordUsage",
        "GetUsage",
        "GenerateInvoice",
        "GetInvoice",
        "ListInvoices",
        "AddPaymentMethod",
        "RemovePaymentMethod",
        "SetDefaultPaymentMethod",
        "HandleWebhook",
    ),
}
"""Each service's operations in its own words; of the billing service, features that it names without a path as well."""


def seed(service: str, operation: str, *shows: Shows) -> Callable[[Test], Test]:
    """Says that the test shows this of the operation. Several decorators, several operations."""
    assert operation in OPERATIONS[service], f"{service} has no operation {operation!r}; see OPERATIONS"
    assert 0 < len(set(shows)) == len(set(shows) & set(SHOWS)), f"say what is shown: some of {SHOWS}"

    def mark(test: Test) -> Test:
        return test

    return mark
