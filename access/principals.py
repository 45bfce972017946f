"""Who asks, and what they may see and send."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from store.service_secrets import EVERY_SERVICE

Kind = Literal["service", "key", "user", "member"]
"""By a service secret, by an organization's API key, by a user's token, by a Clerk session."""

Who = Literal["service", "key", "user", "supervisor", "admin", "org_member", "org_billing", "org_admin"]
"""Everything that a permission may name: the closed set of roles over all kinds."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone whose credentials were verified. Every kind of principal is this one type, so that scope is one rule."""

    kind: Kind
    """How it proved who it is."""
    name: str
    """For the logs and the audit; never a secret. Unique within its kind."""
    tenant_id: str | None = None
    """The only tenant it sees; None sees every one, as our own services do, and nobody else."""
    source_services: frozenset[str] = field(default_factory=frozenset)
    """The source services it may emit for; empty may emit for none."""
    role: Who = "service"
    """What permissions are granted to."""
    user_id: str | None = None
    """The person, where it is one."""
    username: str | None = None
    email: str | None = None

    def __post_init__(self) -> None:
        assert (self.tenant_id is None) <= (self.kind == "service"), "only a service sees every tenant"
        assert self.role in ROLES_OF[self.kind], f"a {self.kind} has no role {self.role}"
        assert (self.user_id is not None) == (self.kind in ("user", "member")), "a person has an id, and nobody else"


ROLES_OF: dict[Kind, frozenset[Who]] = {
    "service": frozenset({"service"}),
    "key": frozenset({"key"}),
    "user": frozenset({"user", "supervisor", "admin"}),
    "member": frozenset({"org_member", "org_billing", "org_admin"}),
}


class AccessRefused(Exception):
    """Why a request does not go on. `status` is HTTP's, `code` is for programs, the message names the remedy."""

    def __init__(self, status: Literal[401, 403, 404, 429, 503], code: str, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s
        """With 429 and 503: when it is worth trying again."""


def require_role(principal: Principal, allowed: frozenset[Who]) -> None:
    """Raises 403 for a principal whose role is not among those allowed."""
    if principal.role not in allowed:
        wanted = ", ".join(sorted(allowed))
        raise AccessRefused(
            403, "role_not_allowed", f"This is not for the role {principal.role}; it is for {wanted}. Use such credentials."
        )


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
            "send your own sourceService, or have the credentials' source services extended.",
        )
