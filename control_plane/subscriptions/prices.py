"""What the prices of the provider are here, and which ones a plan is subscribed to by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, cast, get_args

from sqlalchemy import column, select, table

from control_plane.provider.port import Provider
from control_plane.refusals import Refusal
from control_plane.subscriptions.states import Cycle, PriceMeaning
from control_plane.unit import Unit
from store import stripe_prices

PLANS = table("plans", column("plan_id"))
_STRIPE_PRICES = table(
    "stripe_prices", column("stripe_price_id"), column("kind"), column("plan_id"), column("cycle"), column("livemode")
)


_LAGO_SEPARATOR: Final = "-"


@dataclass(frozen=True)
class PlanPrices:
    """What a subscription to a plan consists of at the provider."""

    base: str
    overage: tuple[str, ...]


def plan_prices(
    unit: Unit, provider: Provider, account: str, plan_id: str, tenant_id: str, cycle: Cycle, currency: str
) -> PlanPrices:
    """The prices. Raises Refusal, with the remedy, for a plan that has none in this currency and cycle."""
    if provider.name == "lago":
        return _lago_prices(unit, plan_id, cycle, currency)
    base = stripe_prices.base_price(unit.pg, account, provider.livemode, plan_id, cycle, currency)
    if base is None:
        raise _not_priced(unit, plan_id, cycle, currency)
    try:
        overage = stripe_prices.overage_prices(unit.pg, account, provider.livemode, plan_id, tenant_id, currency)
    except stripe_prices.PriceMissing as missing:
        raise Refusal("precondition", "overage_not_priced", str(missing)) from missing
    return PlanPrices(base.price_id, tuple(sorted(price.price_id for price in overage)))


def _lago_prices(unit: Unit, plan_id: str, cycle: Cycle, currency: str) -> PlanPrices:
    """Lago bills a plan as a whole, its usage with it: one of its own plans, named after what is sold here."""
    if not any((row[0], row[1]) == (currency, cycle) for row in stripe_prices.plan_prices(unit.pg, plan_id)):
        raise _not_priced(unit, plan_id, cycle, currency)
    return PlanPrices(f"{plan_id}{_LAGO_SEPARATOR}{cycle}{_LAGO_SEPARATOR}{currency}", ())


def _not_priced(unit: Unit, plan_id: str, cycle: Cycle, currency: str) -> Refusal:
    sold = sorted({f"{row[1]} in {row[0]}" for row in stripe_prices.plan_prices(unit.pg, plan_id)})
    offered = f"it is sold {', '.join(sold)}" if sold else "it has no prices"
    return Refusal(
        "invalid",
        "plan_not_priced",
        f"Plan {plan_id} is not sold {cycle} in {currency} ({offered}); choose another, or add the price to the catalog"
        " (0 where usage alone is paid for) and run `meterline stripe setup`.",
    )


def is_plan(unit: Unit, plan_id: str) -> bool:
    """Whether the catalog has it."""
    return unit.sql.execute(select(PLANS.c.plan_id).where(PLANS.c.plan_id == plan_id)).first() is not None


def currency_of(unit: Unit, plan_id: str, asked: str | None, customers: str | None) -> str:
    """The currency of a new subscription: the one asked for, else the one that the customer pays in, else the plan's only one."""
    sold = {currency for currency, _, _ in stripe_prices.plan_prices(unit.pg, plan_id)}
    for currency in (asked, customers):
        if currency is not None:
            return currency.lower()
    if len(sold) == 1:
        return sold.pop()
    raise Refusal(
        "invalid",
        "currency_required",
        f"Plan {plan_id} is sold in {', '.join(sorted(sold)) or 'no currency'}; say which as currency.",
    )


def meanings(unit: Unit, provider: str, price_ids: Collection[str]) -> dict[str, PriceMeaning]:
    """What each of these prices is here; those of nobody are left out."""
    if provider == "lago":
        codes = {code: code.rsplit(_LAGO_SEPARATOR, 2) for code in price_ids}
        return {
            code: PriceMeaning("base", parts[0], cast(Cycle, parts[1]))
            for code, parts in codes.items()
            if len(parts) == 3 and parts[1] in get_args(Cycle) and is_plan(unit, parts[0])
        }
    if provider != "stripe" or not price_ids:
        return {}
    rows = unit.sql.execute(
        select(_STRIPE_PRICES.c.stripe_price_id, _STRIPE_PRICES.c.kind, _STRIPE_PRICES.c.plan_id, _STRIPE_PRICES.c.cycle).where(
            _STRIPE_PRICES.c.stripe_price_id.in_(price_ids)
        )
    )
    return {row.stripe_price_id: PriceMeaning(row.kind, row.plan_id, row.cycle) for row in rows}
