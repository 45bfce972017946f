"""The plans of the catalog, as they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from control_plane.refusals import not_found
from control_plane.unit import Unit
from store.catalog_model import Catalog, Plan
from store.catalog_rows import load_catalog


@dataclass(frozen=True)
class PriceView:
    """What a plan costs for a cycle, in whole minor units."""

    currency: str
    billing_cycle: str
    amount: int


@dataclass(frozen=True)
class FeatureView:
    """A switch of a plan."""

    feature: str
    enabled: bool
    description: str


@dataclass(frozen=True)
class LimitView:
    """What a plan grants of a usage type. `limit` None is unlimited; `overage_price`: of a unit beyond it, in major units."""

    usage_type: str
    limit: Decimal | None
    period: str
    enforce: str
    overage_price: Decimal | None
    overage_currency: str | None
    unit: str
    description: str


@dataclass(frozen=True)
class PlanView:
    """A plan with everything that it says."""

    id: str
    name: str
    currency: str | None
    prices: tuple[PriceView, ...]
    features: tuple[FeatureView, ...]
    limits: tuple[LimitView, ...]
    alerts: tuple[int, ...]


def page(unit: Unit, after: str | None, limit: int) -> Sequence[PlanView]:
    """Plans by their ids, after one."""
    catalog = _catalog(unit)
    ids = [plan_id for plan_id in sorted(catalog.plans) if after is None or plan_id > after]
    return [_view(catalog, plan_id, catalog.plans[plan_id]) for plan_id in ids[:limit]]


def show(unit: Unit, plan_id: str) -> PlanView:
    """The plan. Raises Refusal where there is none."""
    catalog = _catalog(unit)
    plan = catalog.plans.get(plan_id)
    if plan is None:
        raise not_found("plan")
    return _view(catalog, plan_id, plan)


def _catalog(unit: Unit) -> Catalog:
    return load_catalog(unit.pg, tenants=())


def _view(catalog: Catalog, plan_id: str, plan: Plan) -> PlanView:
    prices = [
        PriceView(currency, cycle, amount)
        for currency, of in sorted(plan.prices.items())
        for cycle, amount in (("monthly", of.monthly), ("yearly", of.yearly))
        if amount is not None
    ]
    limits = [
        LimitView(
            usage_type=usage_type,
            limit=limit.limit,
            period=limit.period,
            enforce="hard" if limit.hard else "soft" if limit.limit is not None else "none",
            overage_price=limit.overage_price,
            overage_currency=None if limit.overage_price is None else plan.main_currency,
            unit=catalog.usage_types[usage_type].unit,
            description=catalog.usage_types[usage_type].description,
        )
        for usage_type, limit in sorted(plan.limits.items())
    ]
    features = [
        FeatureView(feature, enabled, catalog.features[feature].description) for feature, enabled in sorted(plan.features.items())
    ]
    return PlanView(plan_id, plan.name, plan.main_currency, tuple(prices), tuple(features), tuple(limits), plan.alerts)
