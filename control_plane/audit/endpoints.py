"""GET /api/audit."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Query

from access.principals import Who
from control_plane.audit import service
from control_plane.audit.service import AuditEntry
from control_plane.http.calls import Here
from control_plane.http.envelope import Answer, Listed, listed
from control_plane.http.paging import Cursor, Limit, after_cursor, cursor_of
from control_plane.http.routes import Routes

ADMINS: Final[frozenset[Who]] = frozenset({"service", "admin", "org_admin"})

routes = Routes("audit")

Organization = Annotated[str | None, Query(max_length=256, description="Whose part of the trail; services see all of it.")]


@routes.get("/api/audit", ADMINS, shows=Listed[AuditEntry])
def list_(call: Here, organization_id: Organization = None, limit: Limit = 50, cursor: Cursor = "") -> Answer:
    """Who changed what, the newest first: a tenant's admin sees its tenant's rows only."""
    after = after_cursor(cursor, int)
    tenant_id = call.principal.tenant_id if organization_id is None else call.tenant(organization_id)
    with call.unit() as unit:
        found = service.entries(unit, tenant_id, None if after is None else int(after[0]), limit)
    shown, more = found[:limit], len(found) > limit
    return listed(shown, cursor_of(shown[-1].id) if more else None, limit)
