"""May a tenant use this much more? One pure decision, in millionths, exact to the last of them.

What an answer means. `used`, `reserved`, `limit`, `remaining` and `is_exceeded` describe how the tenant stands BEFORE the
quantity that is asked for, because a check holds nothing: with a limit of 20 and 5 used, asking for 1 answers
`remaining` 15. `allowed` and `reason` answer the question itself. So the same figures stand in a check and in a
summary of the same moment, and a client that wants to know what it would have left subtracts what it asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from meterline_schemas.types import Micros

ZERO = Micros(0)


class Reason(StrEnum):
    """Why a check was answered as it was. Closed: a new one is a change of the contract."""

    WITHIN_PLAN = "within_plan"
    """Allowed: the limit holds this quantity too, or the plan has the feature."""
    OVERAGE = "overage"
    """Allowed beyond a soft limit; what is above it is overage."""
    LIMIT_EXCEEDED = "limit_exceeded"
    """Denied: the limit is hard and does not hold this quantity."""
    UNLIMITED = "unlimited"
    """Allowed: the plan sets no limit."""
    NOT_IN_PLAN = "not_in_plan"
    """Denied: the tenant's plan does not name this usage type or feature."""
    NO_SUBSCRIPTION = "no_subscription"
    """Denied: the tenant is on no plan."""
    SUBSCRIPTION_INACTIVE = "subscription_inactive"
    """Denied: the tenant's subscription is not active."""
    FEATURE_DISABLED = "feature_disabled"
    """Denied: the plan switches the feature off that this usage belongs to."""
    INSUFFICIENT_CREDITS = "insufficient_credits"
    """Denied: the user's credits do not pay for this quantity."""
    UNKNOWN_TENANT = "unknown_tenant"
    """Denied: no such tenant."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a plan grants of one usage type in one period."""

    quantity: Micros | None
    """None is unlimited."""
    hard: bool
    """A hard limit denies what goes beyond it; a soft one lets it pass as overage."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a tenant and the thing asked for, at one moment."""

    tenant_known: bool
    has_plan: bool = False
    active: bool = False
    limit: Limit | None = None
    """None: the plan has no limit for it, that is, the plan does not name it."""
    feature_enabled: bool | None = None
    """None: the plan says nothing about the feature, which then neither allows nor denies."""
    used: Micros = ZERO
    """Counted in the limit's period. Corrections may bring it below zero."""
    reserved: Micros = ZERO
    """Held by open reservations."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. See the module's text for which part speaks of before, and which of the question."""

    allowed: bool
    reason: Reason
    remaining: Micros | None
    """None is unlimited. Never below zero, and zero wherever nothing at all may be used."""
    is_exceeded: bool
    """`used` is above the limit already, which only a soft limit, a correction or a change of plan brings about."""


NOTHING_GRANTED = Limit(ZERO, hard=True)
"""How a limit reads that no plan grants: shown in the answers that deny for another cause than a limit."""


def remaining(limit: Micros | None, used: Micros, reserved: Micros) -> Micros | None:
    """What of `limit` is neither used nor held; None when there is no limit."""
    return None if limit is None else Micros(max(limit - used - reserved, 0))


def overage(limit: Micros | None, used: Micros) -> Micros:
    """What was used above `limit`."""
    return ZERO if limit is None else Micros(max(used - limit, 0))


def _obstacle(standing: Standing) -> Reason | None:
    """What denies before any figure is looked at; the most basic one first."""
    if not standing.tenant_known:
        return Reason.UNKNOWN_TENANT
    if not standing.has_plan:
        return Reason.NO_SUBSCRIPTION
    if not standing.active:
        return Reason.SUBSCRIPTION_INACTIVE
    if standing.feature_enabled is False:
        return Reason.FEATURE_DISABLED
    if standing.limit is None:
        return Reason.NOT_IN_PLAN
    return None


def decide(standing: Standing, quantity: Micros) -> Decision:
    """Whether `quantity` more may be used. `quantity` is zero or more; zero asks whether the limit still holds."""
    if quantity < 0:
        raise ValueError("a check asks for zero or more; a correction is recorded, not asked for")
    limit = standing.limit or NOTHING_GRANTED
    is_exceeded = overage(limit.quantity, standing.used) > 0 if standing.limit is not None else False
    obstacle = _obstacle(standing)
    if obstacle is not None:
        return Decision(False, obstacle, ZERO, is_exceeded)
    left = remaining(limit.quantity, standing.used, standing.reserved)
    if limit.quantity is None:
        return Decision(True, Reason.UNLIMITED, None, is_exceeded)
    if standing.used + standing.reserved + quantity <= limit.quantity:
        return Decision(True, Reason.WITHIN_PLAN, left, is_exceeded)
    if limit.hard:
        return Decision(False, Reason.LIMIT_EXCEEDED, left, is_exceeded)
    return Decision(True, Reason.OVERAGE, left, is_exceeded)


def decide_feature(standing: Standing) -> Decision:
    """Whether a feature may be used at all. A feature is a switch: it has no quantity, so nothing is counted down."""
    granted = Limit(None, hard=True) if standing.feature_enabled else None
    obstacle = _obstacle(replace(standing, limit=granted))
    if obstacle is not None:
        return Decision(False, obstacle, ZERO, False)
    return Decision(True, Reason.WITHIN_PLAN, None, False)
