"""The prices that the catalog needs at Stripe. Pure.

A plan's base prices, by currency and cycle; and for each limit with an overage price a graduated one, so that the included
quantity costs nothing and Stripe bills what goes beyond it. Where Stripe cannot bill what the catalog says, that limit gets
no price but a reason with the remedy: a price that bills another sum would be worse than none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from metering.overage import CannotExpress, graduated
from store.catalog_model import Catalog, PlanLimit
from store.stripe_prices import Slot

NAME_CHARS_MAX = 250


@dataclass(frozen=True)
class WantedPrice:
    """A price, the product that it is of, and what it bills; or why it cannot be."""

    slot: Slot
    product_id: str
    product_name: str
    figures: Mapping[str, str]
    reason: str = ""

    @property
    def lookup_key(self) -> str:
        """By which the price is found again at Stripe."""
        slot = self.slot
        parts = (slot.kind, slot.cycle, slot.currency, slot.plan_id, slot.tenant_id, slot.usage_type)
        return f"meterline_{_digest(*(part or '' for part in parts))}"


def wanted_prices(catalog: Catalog) -> Iterator[WantedPrice]:
    """Every price of the plans, and of the limits that are a tenant's own."""
    for plan_id, plan in catalog.plans.items():
        product = _product_id("plan", plan_id)
        for currency, prices in plan.prices.items():
            if prices.monthly is not None:
                slot = Slot("base", "monthly", currency, plan_id)
                yield WantedPrice(slot, product, plan.name[:NAME_CHARS_MAX], {"amount": str(prices.monthly)})
            if prices.yearly is not None:
                slot = Slot("base", "yearly", currency, plan_id)
                yield WantedPrice(slot, product, plan.name[:NAME_CHARS_MAX], {"amount": str(prices.yearly)})
        for usage_type, limit in plan.limits.items():
            if not limit.overage_price:
                continue
            if plan.main_currency is None:
                yield _without_currency(catalog, Slot("overage", "monthly", "---", plan_id, None, usage_type), f"plan {plan_id}")
                continue
            of_currency = {plan.main_currency: limit.overage_price} | {
                currency: prices.overage[usage_type] for currency, prices in plan.prices.items() if usage_type in prices.overage
            }
            for currency, price in of_currency.items():
                if price:
                    yield _overage(catalog, Slot("overage", "monthly", currency, plan_id, None, usage_type), limit, price)
    for tenant_id, tenant in catalog.tenants.items():
        plan_of = catalog.plans.get(tenant.plan or "")
        for usage_type, limit in (tenant.limits or {}).items():
            if not limit.overage_price:
                continue
            currency_of = None if plan_of is None else plan_of.main_currency
            slot = Slot("overage", "monthly", currency_of or "---", None, tenant_id, usage_type)
            if currency_of is None:
                yield _without_currency(catalog, slot, f"tenant {tenant_id}: its plan")
            else:
                yield _overage(catalog, slot, limit, limit.overage_price)


def _overage(catalog: Catalog, slot: Slot, limit: PlanLimit, price: Decimal) -> WantedPrice:
    usage_type = slot.usage_type
    assert usage_type is not None, "an overage price is of a usage type"
    definition = catalog.usage_types[usage_type]
    together = [name for name, other in catalog.usage_types.items() if other.meter == definition.meter]
    slot = _with_meter(slot, definition.meter)
    who = f"plan {slot.plan_id}" if slot.plan_id is not None else f"tenant {slot.tenant_id}"
    reason, figures = "", {}
    if definition.meter is None:
        reason = "has an overage_price and no meter: give the usage type a `meter`"
    elif len(together) > 1:
        reason = (
            f"has an overage_price, and its meter {definition.meter} adds it up with"
            f" {', '.join(sorted(set(together) - {usage_type})[:5])}: give it a meter of its own"
        )
    elif limit.period != "billing_period":
        reason = f"has an overage_price a {limit.period}, and Stripe bills by the billing period: `period: billing_period`"
    else:
        assert limit.limit is not None, "an unlimited usage type has no overage"
        try:
            figures = graduated(limit.limit, price, catalog.meters[definition.meter].scale, slot.currency).as_terms()
        except CannotExpress as error:
            reason = str(error)
    return WantedPrice(
        slot,
        _product_id("usage", usage_type),
        (definition.description or usage_type)[:NAME_CHARS_MAX],
        figures,
        f"{who}: {usage_type}: {reason}" if reason else "",
    )


def _without_currency(catalog: Catalog, slot: Slot, who: str) -> WantedPrice:
    usage_type = slot.usage_type
    assert usage_type is not None, "an overage price is of a usage type"
    slot = _with_meter(slot, catalog.usage_types[usage_type].meter)
    reason = f"{who} says no currency for the overage_price of {usage_type}: add `currency: usd`, or what it is in"
    return WantedPrice(slot, _product_id("usage", usage_type), usage_type, {}, reason)


def _with_meter(slot: Slot, meter: str | None) -> Slot:
    return Slot(slot.kind, slot.cycle, slot.currency, slot.plan_id, slot.tenant_id, slot.usage_type, meter)


def _product_id(noun: str, name: str) -> str:
    return f"meterline_{noun}_{_digest(name)}"


def _digest(*parts: str) -> str:
    text = b"".join(b"%d:%s," % (len(part.encode()), part.encode()) for part in parts)
    return hashlib.sha256(text).hexdigest()[:32]
