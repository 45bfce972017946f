"""Who asks, and what they may see and send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from store.service_secrets import EVERY_SERVICE


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone whose credentials were verified. Every kind of principal is this one type, so that scope is one rule."""

    kind: Literal["service"]
    """How it proved who it is."""
    name: str
    """For the logs and the audit; never a secret."""
    tenant_id: str | None = None
    """The only tenant it sees; None sees every one, as our own services do."""
    source_services: frozenset[str] = field(default_factory=frozenset)
    """The source services it may emit for; empty may emit for none."""


class AccessRefused(Exception):
    """Why a request does not go on. `status` is HTTP's, `code` is for programs, the message names the remedy."""

    def __init__(self, status: Literal[401, 403, 404, 503], code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def sees_tenant(principal: Principal, tenant_id: str) -> bool:
    """Whether the tenant is in the principal's scope. Out of scope is answered as if there were no such tenant."""
    return principal.tenant_id is None or principal.tenant_id == tenant_id


def require_tenant(principal: Principal, tenant_id: str) -> None:
    """Raises 404 for a tenant out of scope: whether it exists is none of the principal's business."""
    if not sees_tenant(principal, tenant_id):
        raise AccessRefused(404, "not_found", "There is no such tenant in your scope; check tenantId.")


def may_emit_for(principal: Principal, source_service: str) -> bool:
    """Whether it may send events of this source service."""
    return source_service in principal.source_services or EVERY_SERVICE in principal.source_services


def require_source(principal: Principal, source_service: str) -> None:
    """Raises 403 for a source service that the principal may not speak for."""
    if not may_emit_for(principal, source_service):
        raise AccessRefused(
            403,
            "source_not_allowed",
            f"{principal.name} may not emit for sourceService {source_service[:64]!a}; "
            "send your own sourceService, or have the secret's source services extended.",
        )
