"""Makes Stripe hold the catalog's products and prices, and records them.

Idempotent, whatever stopped an earlier run: a product has an id of ours, a price a lookup key of ours, and what is found there
with the right terms is adopted. Prices never change at Stripe, so other terms are a new price:

1. create it, taking the lookup key from the one before;
2. record it as the active one of its slot, the one before as replaced, and commit;
3. archive the one before, so that nobody subscribes to it any more, record that, and commit.

Stopped after 1, the next run adopts the new price; after 2, it archives the replaced one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import Connection

from billing_exporter.gateway import Account
from billing_exporter.price_gateway import FoundPrice, PriceGateway, PriceOrder, PriceTerms
from billing_exporter.wanted_prices import WantedPrice, wanted_prices
from store import stripe_prices
from store.catalog import load_catalog
from store.stripe_prices import Slot, StripePrice

OWN_LIMITS_TENANTS_MAX = 100_000

Action = Literal["ok", "create", "update", "replace", "adopt", "archive", "wrong"]


@dataclass(frozen=True)
class ProductStep:
    """What a product needs at Stripe."""

    product_id: str
    name: str
    action: Action


@dataclass(frozen=True)
class PriceStep:
    """What a price needs at Stripe. `price_id` is the one that stands there now, if any."""

    slot: Slot
    action: Action
    price_id: str | None
    wanted: WantedPrice | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """For people."""
        slot = self.slot
        whose = f"plan {slot.plan_id}" if slot.plan_id is not None else f"tenant {slot.tenant_id}"
        what = f"{slot.cycle} {slot.currency}" if slot.kind == "base" else f"{slot.usage_type} beyond its limit, {slot.currency}"
        return f"{whose}: {what}"


@dataclass(frozen=True)
class PricePlan:
    """All steps; `wrong` ones need a person."""

    account: Account
    products: tuple[ProductStep, ...]
    prices: tuple[PriceStep, ...]

    @property
    def wrong(self) -> list[PriceStep]:
        """What Stripe cannot bill as the catalog says."""
        return [step for step in self.prices if step.action == "wrong"]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many steps of each kind."""
        return {
            "products": dict(Counter(step.action for step in self.products)),
            "prices": dict(Counter(step.action for step in self.prices)),
        }

    @property
    def changes(self) -> bool:
        """Whether applying would do anything."""
        actions = {step.action for step in self.products} | {step.action for step in self.prices}
        return bool(actions - {"ok", "wrong"})


def plan_prices(connection: Connection[Any], gateway: PriceGateway) -> PricePlan:
    """What setup would do; reads only. Raises GatewayError and its kinds."""
    account = gateway.account()
    own = connection.execute(
        "SELECT DISTINCT tenant_id FROM tenant_limits WHERE overage_price > 0 ORDER BY 1 LIMIT %s", (OWN_LIMITS_TENANTS_MAX,)
    ).fetchall()
    wanted = list(wanted_prices(load_catalog(connection, [tenant_id for (tenant_id,) in own])))
    recorded = stripe_prices.recorded(connection, account.id, account.livemode)
    possible = [one for one in wanted if not one.reason]
    found = {price.lookup_key: price for price in gateway.prices([one.lookup_key for one in possible])}
    meter_ids = {meter.meter: meter.id for meter in gateway.meters()}
    active = {price.slot: price for price in recorded if price.state == "active"}
    steps = [_step(one, found.get(one.lookup_key), active.get(one.slot), meter_ids) for one in wanted]
    steps += _archived(recorded, wanted)
    return PricePlan(account, tuple(_products(gateway, possible)), tuple(steps))


def apply_prices(connection: Connection[Any], gateway: PriceGateway, plan: PricePlan) -> None:
    """Does what can be done, committing what was made as soon as Stripe has it. Raises GatewayError and its kinds; a repeat
    goes on from there."""
    for product in plan.products:
        if product.action == "create":
            gateway.create_product(product.product_id, product.name)
        elif product.action == "update":
            gateway.update_product(product.product_id, product.name)
    meter_ids = {meter.meter: meter.id for meter in gateway.meters()}
    for step in plan.prices:
        if step.wanted is not None:
            _make(connection, gateway, plan.account, step, step.wanted, meter_ids)
    # Not those of the plan alone: what was just replaced is archived too.
    for price in stripe_prices.recorded(connection, plan.account.id, plan.account.livemode):
        gone = any(step.price_id == price.price_id and step.action == "archive" for step in plan.prices)
        if price.state == "replaced" or gone:
            gateway.archive_price(price.price_id)
            stripe_prices.move(connection, plan.account.id, plan.account.livemode, price.price_id, "archived")
            connection.commit()


def _step(wanted: WantedPrice, found: FoundPrice | None, active: StripePrice | None, meter_ids: dict[str, str]) -> PriceStep:
    if wanted.reason:
        return PriceStep(wanted.slot, "wrong", active.price_id if active else None, reason=wanted.reason)
    if found is not None and found.active and found.terms == _terms(wanted, meter_ids):
        same = active is not None and active.price_id == found.id
        return PriceStep(wanted.slot, "ok" if same else "adopt", found.id, None if same else wanted)
    standing = found.id if found is not None else active.price_id if active is not None else None
    return PriceStep(wanted.slot, "create" if standing is None else "replace", standing, wanted)


def _make(
    connection: Connection[Any],
    gateway: PriceGateway,
    account: Account,
    step: PriceStep,
    wanted: WantedPrice,
    meter_ids: dict[str, str],
) -> None:
    # 1. create
    price_id = step.price_id
    if step.action != "adopt" or price_id is None:
        metadata = {"meterline_plan": step.slot.plan_id, "meterline_tenant": step.slot.tenant_id}
        price_id = gateway.create_price(
            PriceOrder(
                wanted.lookup_key,
                _terms(wanted, meter_ids),
                nickname=step.name[:250],
                metadata={key: text for key, text in metadata.items() if text is not None},
            )
        )
    # 2. record
    stripe_prices.record(connection, account.id, account.livemode, wanted.slot, price_id, wanted.product_id, wanted.figures)
    connection.commit()
    # 3. archive, also where the one before was made by nobody that is on record
    if step.action == "replace" and step.price_id is not None:
        gateway.archive_price(step.price_id)
        stripe_prices.move(connection, account.id, account.livemode, step.price_id, "archived")
        connection.commit()


def _terms(wanted: WantedPrice, meter_ids: dict[str, str]) -> PriceTerms:
    meter = wanted.slot.meter
    # A meter that Stripe lacks is made before the prices are; until then no price can be equal to the wanted one.
    meter_id = None if meter is None else meter_ids.get(meter, "")
    return PriceTerms(wanted.product_id, wanted.slot.currency, wanted.slot.cycle == "monthly", meter_id, dict(wanted.figures))


def _archived(recorded: Sequence[StripePrice], wanted: Sequence[WantedPrice]) -> list[PriceStep]:
    """What the catalog names no more, and what an earlier run replaced. What is wrong now stays until it is put right."""
    slots = {one.slot for one in wanted if not one.reason}
    unclear = {(one.slot.plan_id, one.slot.tenant_id, one.slot.usage_type) for one in wanted if one.reason}
    return [
        PriceStep(price.slot, "archive", price.price_id)
        for price in recorded
        if price.state == "replaced"
        or (
            price.slot not in slots
            and (price.slot.kind == "base" or (price.slot.plan_id, price.slot.tenant_id, price.slot.usage_type) not in unclear)
        )
    ]


def _products(gateway: PriceGateway, wanted: Sequence[WantedPrice]) -> list[ProductStep]:
    steps = []
    for product_id, name in {one.product_id: one.product_name for one in wanted}.items():
        there = gateway.product(product_id)
        if there is None:
            steps.append(ProductStep(product_id, name, "create"))
        else:
            steps.append(ProductStep(product_id, name, "ok" if there.active and there.name == name else "update"))
    return steps
