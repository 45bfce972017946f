"""Grants and limits of a single tenant: what support gives away, made once, audited, undone by name."""

from __future__ import annotations

from datetime import date
from typing import Any

from psycopg import Connection

from runtime.exits import Exit, MeterlineExit
from store.catalog_change import Change
from store.catalog_model import Catalog, Grant, PlanLimit, Tenant
from store.tenant_terms import change_tenant


def limit_of(catalog: Catalog, tenant: Tenant, usage_type: str) -> PlanLimit | None:
    """What a tenant may use of a type: its own limit, else its plan's; None where neither names it."""
    if tenant.limits is not None and usage_type in tenant.limits:
        return tenant.limits[usage_type]
    plan = None if tenant.plan is None else catalog.plans.get(tenant.plan)
    return None if plan is None else plan.limits.get(usage_type)


def give(connection: Connection[Any], tenant_id: str, grant_id: str, grant: Grant, by: str) -> Change | None:
    """Makes a grant; None when the very same stands already, so that a repeated command gives nothing twice.

    Raises MeterlineExit when another grant bears the id, or when there is no limit that it could add to.
    """

    def added(catalog: Catalog, tenant: Tenant) -> Tenant:
        if tenant.grants.get(grant_id, grant) != grant:
            raise MeterlineExit(Exit.FAILED, f"{tenant_id} has another grant {grant_id} already; give this one another --id")
        limit = limit_of(catalog, tenant, grant.usage_type)
        if grant.usage_type in catalog.usage_types and (limit is None or limit.limit is None):
            found = "does not name" if limit is None else "does not limit"
            raise MeterlineExit(
                Exit.FAILED,
                f"the plan of {tenant_id} {found} {grant.usage_type}, so there is nothing to add to; "
                f"`meterline plans override {tenant_id} {grant.usage_type}` sets a limit of its own",
            )
        return tenant.model_copy(update={"grants": {**tenant.grants, grant_id: grant}})

    return change_tenant(connection, tenant_id, by, added)


def revoke(connection: Connection[Any], tenant_id: str, grant_id: str, today: date, by: str) -> Change | None:
    """Ends a grant with the beginning of today; None when it had ended already. What it paid for before stays paid for."""

    def ended(_: Catalog, tenant: Tenant) -> Tenant:
        grant = tenant.grants.get(grant_id)
        if grant is None:
            raise MeterlineExit(
                Exit.FAILED, f"{tenant_id} has no grant {grant_id}; `meterline plans grants {tenant_id}` lists them"
            )
        end = max(grant.valid_from, min(grant.expires_on, today))
        return tenant.model_copy(update={"grants": {**tenant.grants, grant_id: grant.model_copy(update={"expires_on": end})}})

    return change_tenant(connection, tenant_id, by, ended)


def override(connection: Connection[Any], tenant_id: str, usage_type: str, limit: PlanLimit | None, by: str) -> Change | None:
    """Sets a limit of the tenant's own in place of its plan's; None takes it away, so that the plan's stands again."""

    def replaced(_: Catalog, tenant: Tenant) -> Tenant:
        others = {name: own for name, own in (tenant.limits or {}).items() if name != usage_type}
        limits = others if limit is None else dict(sorted({**others, usage_type: limit}.items()))
        return tenant.model_copy(update={"limits": limits or None})

    return change_tenant(connection, tenant_id, by, replaced)
