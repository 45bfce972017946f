"""What is one tenant's alone, changed by itself: read, changed, audited and written in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import Connection

from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from store.audit import Entry, record
from store.catalog_change import Change
from store.catalog_model import Catalog, Tenant
from store.catalog_rows import load_catalog, write


def change_tenant(
    connection: Connection[Any], tenant_id: str, by: str, change: Callable[[Catalog, Tenant], Tenant]
) -> Change | None:
    """Makes stand what `change` makes of the tenant in the catalog; None when it stands already.

    One change of the catalog runs at a time, so `change` sees what it changes. Raises MeterlineExit for a tenant that there
    is not and for a name that leads nowhere, and what `change` raises; then nothing is changed.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.CATALOG,))
        standing = load_catalog(connection, tenants=[tenant_id])
        before = standing.tenants.get(tenant_id)
        if before is None:
            raise MeterlineExit(
                Exit.FAILED, f"there is no tenant {tenant_id}; name it in plans.yaml and run `meterline plans apply`"
            )
        after = change(standing, before)
        dangling = standing.model_copy(update={"tenants": {tenant_id: after}}).dangling()
        if dangling:
            raise MeterlineExit(Exit.FAILED, "; ".join(message for _, message in dangling))
        old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
        if old == new:
            return None
        changed = Change("tenants", tenant_id, "changed", old, new)
        write(connection, [changed])
        record(connection, by, [Entry("catalog.tenant.changed", tenant_id, old, new, tenant_id)])
        return changed
