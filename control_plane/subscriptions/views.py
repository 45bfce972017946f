"""A subscription as it is shown, and what may be asked of one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row

from control_plane.provider.values import Invoice, ItemOrder, PauseBehavior, Proration
from control_plane.subscriptions.states import Cycle


@dataclass(frozen=True)
class SubscriptionView:
    """A subscription. `items`: what is paid for beside the plan."""

    id: str
    organization_id: str
    plan_id: str | None
    billing_cycle: str | None
    quantity: int
    items: tuple[ItemOrder, ...]
    currency: str
    status: str
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool
    cancel_at: datetime | None
    canceled_at: datetime | None
    ended_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    pause_behavior: str | None
    pause_resumes_at: datetime | None
    payment_method_id: str | None
    latest_invoice_id: str | None
    provider: str
    imported: bool
    misaligned: bool
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class CreateOrder:
    """What a new subscription is to be. A trial is a number of days from now."""

    plan_id: str
    billing_cycle: Cycle = "monthly"
    currency: str | None = None
    quantity: int = 1
    items: tuple[ItemOrder, ...] = ()
    payment_method_id: str | None = None
    trial_days: int | None = None
    promo_code: str | None = None


@dataclass(frozen=True)
class UpdateOrder:
    """What is to be otherwise; None leaves as it is. `items` replaces all that is paid for beside the plan."""

    plan_id: str | None = None
    billing_cycle: Cycle | None = None
    quantity: int | None = None
    items: tuple[ItemOrder, ...] | None = None
    proration: Proration = "create_prorations"
    payment_method_id: str | None = None
    trial_end: datetime | None = None
    end_trial: bool = False
    promo_code: str | None = None


@dataclass(frozen=True)
class PauseOrder:
    """How collection is to be paused."""

    behavior: PauseBehavior = "void"
    resumes_at: datetime | None = None


@dataclass(frozen=True)
class Preview:
    """What a change would cost. `invoices`: the ones that would follow on it, one for each of the provider's subscriptions."""

    currency: str
    total: int
    proration: int
    invoices: tuple[Invoice, ...]


def view_of(row: Row[Any]) -> SubscriptionView:
    """A row as it is shown."""
    return SubscriptionView(
        id=row.subscription_id,
        organization_id=row.tenant_id,
        plan_id=row.plan_id,
        billing_cycle=row.billing_cycle,
        quantity=row.quantity,
        items=msgspec.convert(row.addons, tuple[ItemOrder, ...]),
        currency=row.currency,
        status=row.status,
        current_period_start=row.period_start,
        current_period_end=row.period_end,
        cancel_at_period_end=row.cancel_at_period_end,
        cancel_at=row.cancel_at,
        canceled_at=row.canceled_at,
        ended_at=row.ended_at,
        trial_start=row.trial_start,
        trial_end=row.trial_end,
        pause_behavior=row.pause_behavior,
        pause_resumes_at=row.pause_resumes_at,
        payment_method_id=row.payment_method_id,
        latest_invoice_id=row.latest_invoice_id,
        provider=row.provider,
        imported=row.origin == "imported",
        misaligned=row.misaligned,
        created_at=row.created_at,
        updated_at=row.changed_at,
    )
