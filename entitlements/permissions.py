"""Who may call which route: the one table, which is complete (a route that is missing here cannot be added).

It speaks of roles alone. Which tenant's data a principal sees, and which source services it emits for, is its scope's to say
(`access.principals`), the same on every route.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from access.principals import Who

READERS: Final[frozenset[Who]] = frozenset(
    {"service", "key", "user", "supervisor", "admin", "org_member", "org_billing", "org_admin"}
)
"""Everybody who came in."""
WRITERS: Final[frozenset[Who]] = frozenset({"service", "key"})
"""What is billed is written by machines."""
OPERATORS: Final[frozenset[Who]] = frozenset({"service"})
OPEN: Final = None
"""Needs no credentials."""

PERMISSIONS: Final[Mapping[tuple[str, str], frozenset[Who] | None]] = {
    ("POST", "/v1/billing/entitlements/check"): READERS,
    ("POST", "/v1/billing/entitlements/check/batch"): READERS,
    ("POST", "/v1/billing/usage"): WRITERS,
    ("POST", "/v1/billing/usage/batch"): WRITERS,
    ("POST", "/v1/billing/reservations"): WRITERS,
    ("POST", "/v1/billing/reservations/{reservationId}/settle"): WRITERS,
    ("POST", "/v1/billing/reservations/{reservationId}/release"): WRITERS,
    ("GET", "/v1/billing/reservations/{reservationId}"): WRITERS,
    ("GET", "/v1/billing/summaries/{tenantId:path}"): READERS,
    ("GET", "/v1/billing/usage/{tenantId:path}"): READERS,
    ("GET", "/v1/billing/explain"): OPERATORS,
    ("GET", "/health"): OPEN,
    ("GET", "/ready"): OPEN,
    ("GET", "/metrics"): OPEN,
}
