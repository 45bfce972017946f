"""What a tenant's subscription is, from what the provider holds of it. Pure.

The provider's subscriptions that belong to one of ours are its parts. The part that leads says its status, its period and
its plan: one with a base price before one with usage only, a living one before one that is over, a newer one before an older.
So when the part that is paid for ends, the subscription is over, though the one that bills its usage may live on for a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from typing import Literal

from control_plane.provider.values import OVER, ItemOrder, Pause, Subscription, SubscriptionItem, SubscriptionStatus

Cycle = Literal["monthly", "yearly"]
UNDONE: frozenset[SubscriptionStatus] = frozenset({"incomplete", "incomplete_expired"})
"""Never paid, so never in force: a tenant goes on with what it had."""


@dataclass(frozen=True)
class PriceMeaning:
    """What a price of the provider's is here. `plan_id` None: a single tenant's own overage price."""

    kind: Literal["base", "overage"]
    plan_id: str | None
    cycle: Cycle


@dataclass(frozen=True)
class Contract:
    """A tenant's subscription."""

    plan_id: str | None
    billing_cycle: Cycle | None
    quantity: int
    addons: tuple[ItemOrder, ...]
    currency: str
    status: SubscriptionStatus
    misaligned: bool
    period_start: datetime
    period_end: datetime
    cancel_at_period_end: bool
    cancel_at: datetime | None
    canceled_at: datetime | None
    ended_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    pause: Pause | None
    payment_method_id: str | None
    latest_invoice_id: str | None
    created: datetime


def derive(parts: Sequence[Subscription], prices: Mapping[str, PriceMeaning], anchor_day: int) -> Contract:
    """The contract of its parts, of which there is at least one. Depends on nothing but these: no order, no history."""
    lead = max(parts, key=lambda part: (_has_base(part, prices), is_alive(part), part.created, part.id))
    base = next((item for item in lead.items if _kind(item, prices) == "base"), None)
    meaning = prices[base.price_id] if base is not None else _usage_meaning(lead, prices)
    living = [part for part in parts if is_alive(part)]
    return Contract(
        plan_id=None if meaning is None else meaning.plan_id,
        billing_cycle=_cycle(lead, meaning if base is not None else None),
        quantity=1 if base is None else (1 if base.quantity is None else base.quantity),
        addons=tuple(
            ItemOrder(item.price_id, item.quantity)
            for item in lead.items
            if item.quantity is not None and _kind(item, prices) is None
        ),
        currency=lead.currency,
        status=lead.status,
        misaligned=any(is_misaligned(part, anchor_day) for part in living),
        period_start=lead.period_start,
        period_end=lead.period_end,
        cancel_at_period_end=lead.cancel_at_period_end,
        cancel_at=lead.cancel_at,
        canceled_at=lead.canceled_at,
        ended_at=(lead.ended_at or lead.canceled_at or lead.period_end) if lead.status in OVER else None,
        trial_start=lead.trial_start,
        trial_end=lead.trial_end,
        pause=lead.pause,
        payment_method_id=lead.payment_method_id,
        latest_invoice_id=lead.latest_invoice_id,
        created=min(part.created for part in parts),
    )


def kept_plan(derived: Contract, before: str | None) -> Contract:
    """A price that means no plan here does not take the plan away."""
    return replace(derived, plan_id=derived.plan_id or before)


def is_alive(part: Subscription) -> bool:
    """Whether something may still follow on it."""
    return part.status not in OVER


def is_misaligned(part: Subscription, anchor_day: int) -> bool:
    """Whether its periods are others than the tenant's, so that its usage cannot be billed by it."""
    return part.anchor.time() != time(0) or part.anchor_day != anchor_day


def is_base(item: SubscriptionItem, prices: Mapping[str, PriceMeaning]) -> bool:
    """Whether the item is a plan's base price."""
    return _kind(item, prices) == "base"


def _kind(item: SubscriptionItem, prices: Mapping[str, PriceMeaning]) -> str | None:
    meaning = prices.get(item.price_id)
    return None if meaning is None else meaning.kind


def _has_base(part: Subscription, prices: Mapping[str, PriceMeaning]) -> bool:
    return any(is_base(item, prices) for item in part.items)


def _usage_meaning(part: Subscription, prices: Mapping[str, PriceMeaning]) -> PriceMeaning | None:
    found = (prices[item.price_id] for item in part.items if item.price_id in prices)
    return next((meaning for meaning in found if meaning.plan_id is not None), None)


def _cycle(lead: Subscription, meaning: PriceMeaning | None) -> Cycle | None:
    if meaning is not None:
        return meaning.cycle
    if lead.interval_count != 1:
        return None
    return "monthly" if lead.interval == "month" else "yearly" if lead.interval == "year" else None
