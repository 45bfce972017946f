"""What the provider says of a subscription, taken over: the part, the subscription that it belongs to, what the tenant may use.

Checks read the tenant's row, so what a transaction of this writes is what the next check answers.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Row, update

from control_plane.customers import repository as customers
from control_plane.provider.values import OVER, Subscription
from control_plane.subscriptions import operations, prices, repository
from control_plane.subscriptions.states import UNDONE, derive, kept_plan
from control_plane.subscriptions.wanted import subscription_of
from control_plane.unit import Unit
from store import audit

logger = logging.getLogger(__name__)


def converge(unit: Unit, provider: str, found: Subscription, seen: int) -> bool:
    """Takes over what was read with the ticket `seen`; whether it was news. One of nobody here is left alone.

    Any order and any repetition of what was seen leads to the same rows.
    """
    tenant_id = customers.tenant_of(unit, provider, found.customer_id)
    tenant = None if tenant_id is None else customers.tenant(unit, tenant_id, lock=True)
    if tenant is None:
        logger.warning("a subscription of an unknown customer is left alone", extra={"provider_subscription_id": found.id})
        return False
    subscription_id, origin = _belongs_to(unit, tenant.tenant_id, provider, found)
    before = repository.subscription(unit, subscription_id)
    parts = {part.id: part for part in repository.parts(unit, subscription_id)}
    stands = repository.part(unit, provider, found.id)
    if stands is not None and (stands.seen >= seen or stands.status in OVER):
        return False
    parts[found.id] = found
    meanings = prices.meanings(unit, provider, {item.price_id for part in parts.values() for item in part.items})
    contract = kept_plan(derive(list(parts.values()), meanings, tenant.anchor_day), None if before is None else before.plan_id)
    repository.put(unit, subscription_id, tenant.tenant_id, provider, origin, contract)
    repository.put_part(unit, provider, subscription_id, found, seen)
    if before is None or before.status != contract.status or before.plan_id != contract.plan_id:
        was = None if before is None else {"status": before.status, "plan": before.plan_id}
        now = {"status": contract.status, "plan": contract.plan_id}
        entry = audit.Entry("subscription.converged", subscription_id, was, now, tenant.tenant_id)
        unit.audit(entry)
    _govern(unit, tenant)
    return True


def _belongs_to(unit: Unit, tenant_id: str, provider: str, found: Subscription) -> tuple[str, str]:
    """(subscription, origin): by what is on record, else by the reference that we gave it, else imported as one of its own."""
    stands = repository.part(unit, provider, found.id)
    if stands is not None:
        row = repository.subscription(unit, stands.subscription_id)
        assert row is not None, "a part has its subscription"
        return str(row.subscription_id), str(row.origin)
    ours = subscription_of(found.reference)
    if ours is not None and operations.is_of(unit, ours[1], ours[0], tenant_id):
        return ours[0], "here"
    return repository.new_id(), "imported"


def _govern(unit: Unit, tenant: Row[Any]) -> None:
    """Sets what checks read: the plan and the state of the subscription that counts."""
    rows = [row for row in repository.of_tenant(unit, tenant.tenant_id) if row.status not in UNDONE]
    if not rows:
        return
    counts = rows[0]
    known = counts.plan_id is not None and prices.is_plan(unit, counts.plan_id)
    wanted = {"subscription_status": counts.status, "plan_id": counts.plan_id if known else tenant.plan_id}
    if wanted == {"subscription_status": tenant.subscription_status, "plan_id": tenant.plan_id}:
        return
    unit.sql.execute(update(customers.TENANTS).where(customers.TENANTS.c.tenant_id == tenant.tenant_id).values(**wanted))
