"""Plans over HTTP."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel


class PriceShown(BaseModel):
    """What the plan costs for a cycle, in whole minor units of the currency."""

    currency: str
    billing_cycle: str
    amount: int


class FeatureShown(BaseModel):
    """A switch of the plan."""

    feature: str
    enabled: bool
    description: str


class LimitShown(BaseModel):
    """What the plan grants of a usage type; null is unlimited. `overage_price` is of one unit beyond it, in major units."""

    usage_type: str
    limit: Decimal | None
    period: str
    enforce: str
    overage_price: Decimal | None
    overage_currency: str | None
    unit: str
    description: str


class PlanShown(BaseModel):
    """A plan."""

    id: str
    name: str
    currency: str | None
    prices: list[PriceShown]
    features: list[FeatureShown]
    limits: list[LimitShown]
    alerts: list[int]
