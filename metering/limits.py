"""May a tenant use this much more? One pure decision, in millionths, exact to the last of them.

What an answer means. `used`, `reserved`, `limit`, `remaining` and `is_exceeded` describe how the tenant stands BEFORE the
quantity that is asked for, because a check holds nothing: with a limit of 20 and 5 used, asking for 1 answers
`remaining` 15. `allowed` and `reason` answer the question itself. So the same figures stand in a check and in a
summary of the same moment, and a client that wants to know what it would have left subtracts what it asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from meterline_schemas.types import Micros

ZERO = Micros(0)
PRICE_ONE = 10**12
"""One credit, in the units that prices are kept in."""


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
    DEGRADED_ALLOW = "degraded_allow"
    """Allowed without a look at the counters, which cannot be read: the limit fails open, and what is remembered allows it."""
    DEGRADED_DENY = "degraded_deny"
    """Denied without a look at the counters, which cannot be read: the limit fails closed, or what is remembered denies it."""


WhenUnavailable = Literal["fail_open", "fail_closed"]
"""What a check answers while the counters cannot be read."""

LET_IN = frozenset({"trialing", "active", "past_due"})
"""The states of a subscription that let its tenant in. `past_due` does: the provider still tries to collect, and says
`unpaid` or `canceled` when it gives up."""


def is_active(status: str | None, subscription_status: str | None) -> bool:
    """Whether a tenant is let in: not switched off by the operator, and not by its subscription if a provider manages one."""
    return status == "active" and (subscription_status is None or subscription_status in LET_IN)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a plan grants of one usage type in one period."""

    quantity: Micros | None
    """None is unlimited."""
    hard: bool
    """A hard limit denies what goes beyond it; a soft one lets it pass as overage."""
    when_unavailable: WhenUnavailable | None = None
    """None: nobody said, so it is not answered at all."""


@dataclass(frozen=True, slots=True)
class Credits:
    """The price of a usage type in credits, and what the user who would pay has."""

    price: int
    """Of one unit, in units of 10^-12 credits."""
    balance: Micros

    def cost(self, quantity: Micros) -> Micros:
        """What a quantity costs, exact to a millionth and rounded up, so that nothing is had for less than its price."""
        return Micros(-(-quantity * self.price // PRICE_ONE))


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
    credits: Credits | None = None
    """None: the usage type is not priced in credits."""


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
    decision = _by_limit(standing, limit, quantity, left, is_exceeded)
    if decision.allowed and standing.credits is not None and standing.credits.cost(quantity) > standing.credits.balance:
        return Decision(False, Reason.INSUFFICIENT_CREDITS, left, is_exceeded)
    return decision


def _by_limit(standing: Standing, limit: Limit, quantity: Micros, left: Micros | None, is_exceeded: bool) -> Decision:
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


def decide_away(standing: Standing | None, quantity: Micros | None, otherwise: WhenUnavailable | None) -> Decision | None:
    """What to answer while the counters cannot be read, from how the tenant stood when they last could.

    None: nothing is to be answered, for nobody said what. `standing` None: that is not remembered. `quantity` None: a
    feature is asked for. `otherwise` goes for both, as for what no limit grants. Failing open allows what the last known
    state allowed: an outage lets nobody in who had been denied.
    """
    limit = None if standing is None or quantity is None else standing.limit
    policy = otherwise if limit is None else limit.when_unavailable
    if policy is None:
        return None
    if standing is None:
        allowed = policy == "fail_open"
        return Decision(allowed, Reason.DEGRADED_ALLOW if allowed else Reason.DEGRADED_DENY, None if allowed else ZERO, False)
    last = decide_feature(standing) if quantity is None else decide(standing, quantity)
    allowed = policy == "fail_open" and last.allowed
    return replace(last, allowed=allowed, reason=Reason.DEGRADED_ALLOW if allowed else Reason.DEGRADED_DENY)
