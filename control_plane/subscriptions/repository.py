"""The tables of subscriptions and of their parts at the provider."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, Row, Table, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert

from control_plane.metadata import METADATA
from control_plane.provider.values import OVER, Subscription
from control_plane.subscriptions.states import Contract
from control_plane.unit import Unit

SUBSCRIPTIONS = Table(
    "subscriptions",
    METADATA,
    Column("subscription_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("plan_id", Text),
    Column("billing_cycle", Text),
    Column("quantity", Integer, nullable=False),
    Column("addons", JSONB, nullable=False),
    Column("currency", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("misaligned", Boolean, nullable=False),
    Column("period_start", DateTime(timezone=True), nullable=False),
    Column("period_end", DateTime(timezone=True), nullable=False),
    Column("cancel_at_period_end", Boolean, nullable=False),
    Column("cancel_at", DateTime(timezone=True)),
    Column("canceled_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("trial_start", DateTime(timezone=True)),
    Column("trial_end", DateTime(timezone=True)),
    Column("pause_behavior", Text),
    Column("pause_resumes_at", DateTime(timezone=True)),
    Column("payment_method_id", Text),
    Column("latest_invoice_id", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

PARTS = Table(
    "subscription_parts",
    METADATA,
    Column("provider", Text, primary_key=True),
    Column("provider_subscription_id", Text, primary_key=True),
    Column("subscription_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

_ID_CHARS = string.ascii_lowercase + string.digits


def new_id() -> str:
    """The id of a subscription that is not on record yet."""
    return "sub_" + "".join(secrets.choice(_ID_CHARS) for _ in range(24))


def subscription(unit: Unit, subscription_id: str) -> Row[Any] | None:
    """The subscription's row."""
    return unit.sql.execute(select(SUBSCRIPTIONS).where(SUBSCRIPTIONS.c.subscription_id == subscription_id)).one_or_none()


def of_tenant(unit: Unit, tenant_id: str) -> Sequence[Row[Any]]:
    """The tenant's subscriptions, the one that counts first: a living one before those that are over, ours before imported."""
    rows = unit.sql.execute(
        select(SUBSCRIPTIONS)
        .where(SUBSCRIPTIONS.c.tenant_id == tenant_id)
        .order_by(
            SUBSCRIPTIONS.c.status.in_(OVER),
            (SUBSCRIPTIONS.c.status == "incomplete_expired"),
            (SUBSCRIPTIONS.c.origin != "here"),
            SUBSCRIPTIONS.c.created_at.desc(),
            SUBSCRIPTIONS.c.subscription_id,
        )
        .limit(100)
    )
    return rows.all()


def put(unit: Unit, subscription_id: str, tenant_id: str, provider: str, origin: str, contract: Contract) -> None:
    """The subscription as it is now."""
    values = {
        "plan_id": contract.plan_id,
        "billing_cycle": contract.billing_cycle,
        "quantity": contract.quantity,
        "addons": msgspec.to_builtins(contract.addons),
        "currency": contract.currency,
        "status": contract.status,
        "misaligned": contract.misaligned,
        "period_start": contract.period_start,
        "period_end": contract.period_end,
        "cancel_at_period_end": contract.cancel_at_period_end,
        "cancel_at": contract.cancel_at,
        "canceled_at": contract.canceled_at,
        "ended_at": contract.ended_at,
        "trial_start": contract.trial_start,
        "trial_end": contract.trial_end,
        "pause_behavior": None if contract.pause is None else contract.pause.behavior,
        "pause_resumes_at": None if contract.pause is None else contract.pause.resumes_at,
        "payment_method_id": contract.payment_method_id,
        "latest_invoice_id": contract.latest_invoice_id,
    }
    statement = insert(SUBSCRIPTIONS).values(
        subscription_id=subscription_id,
        tenant_id=tenant_id,
        provider=provider,
        origin=origin,
        created_at=contract.created,
        changed_at=func.now(),
        **values,
    )
    unit.sql.execute(
        statement.on_conflict_do_update(index_elements=["subscription_id"], set_={**values, "changed_at": func.now()})
    )


def parts(unit: Unit, subscription_id: str) -> list[Subscription]:
    """What the provider holds of the subscription, as it was last seen."""
    rows = unit.sql.execute(
        select(PARTS.c.document).where(PARTS.c.subscription_id == subscription_id).order_by(PARTS.c.provider_subscription_id)
    ).scalars()
    return [msgspec.convert(row, Subscription) for row in rows]


def part(unit: Unit, provider: str, provider_subscription_id: str) -> Row[Any] | None:
    """One of them, by the provider's id."""
    return unit.sql.execute(
        select(PARTS).where(PARTS.c.provider == provider, PARTS.c.provider_subscription_id == provider_subscription_id)
    ).one_or_none()


def put_part(unit: Unit, provider: str, subscription_id: str, found: Subscription, seen: int) -> bool:
    """What was seen, unless a later observation stands, or it was over already; whether it was taken."""
    values = {
        "status": found.status,
        "document": msgspec.to_builtins(found),
        "seen": seen,
        "changed_at": func.now(),
    }
    statement = insert(PARTS).values(
        provider=provider, provider_subscription_id=found.id, subscription_id=subscription_id, **values
    )
    result = unit.sql.execute(
        statement.on_conflict_do_update(
            index_elements=["provider", "provider_subscription_id"],
            set_=values,
            where=(PARTS.c.seen < seen) & (PARTS.c.status.not_in(OVER)),
        ).returning(PARTS.c.provider_subscription_id)
    )
    return result.first() is not None
