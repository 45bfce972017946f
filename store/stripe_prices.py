"""The prices at Stripe that stand for the catalog: what `stripe setup` made, and what a subscription is made of.

A price never changes at Stripe. Other terms are another price; the one before it is `replaced`, then `archived`, and those
who are subscribed to it keep it. In the caller's transaction, all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from psycopg import Connection

Kind = Literal["base", "overage"]
Cycle = Literal["monthly", "yearly"]
State = Literal["active", "replaced", "archived"]

_COLUMNS = "stripe_price_id, stripe_product_id, kind, cycle, currency, plan_id, tenant_id, usage_type, meter, terms, state"


@dataclass(frozen=True)
class Slot:
    """What a price is for; at most one active price of an account stands in it.

    base: what a plan costs. overage: what a unit beyond a limit costs, the plan's limit or one tenant's own; always monthly,
    for a meter shows the total of a month.
    """

    kind: Kind
    cycle: Cycle
    currency: str
    plan_id: str | None = None
    tenant_id: str | None = None
    usage_type: str | None = None
    meter: str | None = field(default=None, compare=False)
    """What shows the usage: not part of what the price is for."""


@dataclass(frozen=True)
class StripePrice:
    """A price that setup made, as it stands on record. `terms` are what it bills."""

    price_id: str
    product_id: str
    slot: Slot
    terms: Mapping[str, str]
    state: State


class PriceMissing(LookupError):
    """Setup has made no price for what these usage types cost beyond their limits."""

    def __init__(self, plan_id: str, tenant_id: str | None, currency: str, usage_types: list[str]) -> None:
        super().__init__(
            f"no price at Stripe in {currency} for what plan {plan_id}"
            + (f" or tenant {tenant_id}" if tenant_id is not None else "")
            + f" bills beyond the limit of {', '.join(usage_types)}: run `meterline stripe setup`; a tenant's own limit is priced"
            " in its plan's `currency` only"
        )
        self.usage_types = usage_types


_OVERAGE = f"""
WITH effective AS (
    SELECT usage_type, overage_price AS price, tenant_id, NULL AS plan_id FROM tenant_limits WHERE tenant_id = %(tenant)s
     UNION ALL
    SELECT l.usage_type, coalesce(o.price, l.overage_price), NULL, l.plan_id
      FROM plan_limits l
      LEFT JOIN plan_overage_prices o
        ON o.plan_id = l.plan_id AND o.usage_type = l.usage_type AND o.currency = %(currency)s
     WHERE l.plan_id = %(plan)s
       AND NOT EXISTS (SELECT FROM tenant_limits t WHERE t.tenant_id = %(tenant)s AND t.usage_type = l.usage_type)
)
SELECT e.usage_type, {", ".join(f"p.{column}" for column in _COLUMNS.split(", "))}
  FROM effective e
  LEFT JOIN stripe_prices p
    ON p.account = %(account)s AND p.livemode = %(livemode)s AND p.state = 'active' AND p.kind = 'overage'
   AND p.currency = %(currency)s AND p.usage_type = e.usage_type
   AND (p.tenant_id = e.tenant_id OR p.plan_id = e.plan_id)
 WHERE e.price > 0
 ORDER BY e.usage_type
""".encode()


def base_price(
    connection: Connection[Any], account: str, livemode: bool, plan_id: str, cycle: Cycle, currency: str
) -> StripePrice | None:
    """What a plan costs; None where setup has made no such price."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM stripe_prices WHERE account = %s AND livemode = %s AND state = 'active' AND kind = 'base'"
        " AND plan_id = %s AND cycle = %s AND currency = %s".encode(),
        (account, livemode, plan_id, cycle, currency),
    ).fetchone()
    return None if row is None else _price(row)


def overage_prices(
    connection: Connection[Any], account: str, livemode: bool, plan_id: str, tenant_id: str | None, currency: str
) -> list[StripePrice]:
    """What a tenant on a plan is billed for beyond its limits, by usage type: the plan's prices, and in place of one the price of
    the tenant's own limit, where it has one. Raises PriceMissing: a subscription without one of them would bill too little."""
    rows = connection.execute(
        _OVERAGE,
        {"account": account, "livemode": livemode, "plan": plan_id, "tenant": tenant_id, "currency": currency},
    ).fetchall()
    missing = [usage_type for usage_type, *price in rows if price[0] is None]
    if missing:
        raise PriceMissing(plan_id, tenant_id, currency, missing)
    return [_price(tuple(price)) for _, *price in rows]


def plan_prices(connection: Connection[Any], plan_id: str) -> list[tuple[str, Cycle, int]]:
    """(currency, cycle, amount in the smallest unit) of the catalog."""
    return connection.execute(
        "SELECT currency, cycle, amount FROM plan_prices WHERE plan_id = %s ORDER BY currency, cycle", (plan_id,)
    ).fetchall()


def recorded(connection: Connection[Any], account: str, livemode: bool) -> list[StripePrice]:
    """Every price that is not archived yet."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM stripe_prices WHERE account = %s AND livemode = %s AND state <> 'archived'"
        " ORDER BY kind, plan_id, tenant_id, usage_type, currency, cycle, created_at".encode(),
        (account, livemode),
    ).fetchall()
    return [_price(row) for row in rows]


def record(
    connection: Connection[Any],
    account: str,
    livemode: bool,
    slot: Slot,
    price_id: str,
    product_id: str,
    terms: Mapping[str, str],
) -> None:
    """Makes a price the active one of its slot; another one that was is replaced."""
    values = {
        "account": account,
        "livemode": livemode,
        "price": price_id,
        "product": product_id,
        "kind": slot.kind,
        "cycle": slot.cycle,
        "currency": slot.currency,
        "plan": slot.plan_id,
        "tenant": slot.tenant_id,
        "usage_type": slot.usage_type,
        "meter": slot.meter,
        "terms": json.dumps(terms, sort_keys=True),
    }
    connection.execute(
        "UPDATE stripe_prices SET state = 'replaced', changed_at = now() WHERE account = %(account)s AND livemode = %(livemode)s"
        " AND state = 'active' AND kind = %(kind)s AND cycle = %(cycle)s AND currency = %(currency)s"
        " AND plan_id IS NOT DISTINCT FROM %(plan)s AND tenant_id IS NOT DISTINCT FROM %(tenant)s"
        " AND usage_type IS NOT DISTINCT FROM %(usage_type)s AND stripe_price_id <> %(price)s",
        values,
    )
    connection.execute(
        "INSERT INTO stripe_prices (account, livemode, stripe_price_id, stripe_product_id, kind, cycle, currency, plan_id,"
        " tenant_id, usage_type, meter, terms, state) VALUES (%(account)s, %(livemode)s, %(price)s, %(product)s, %(kind)s,"
        " %(cycle)s, %(currency)s, %(plan)s, %(tenant)s, %(usage_type)s, %(meter)s, %(terms)s, 'active')"
        " ON CONFLICT (account, livemode, stripe_price_id) DO UPDATE SET state = 'active', terms = excluded.terms,"
        " meter = excluded.meter, changed_at = now()",
        values,
    )


def move(connection: Connection[Any], account: str, livemode: bool, price_id: str, state: State) -> None:
    """A price that the catalog names no more is `replaced`; one that Stripe offers no more is `archived`."""
    connection.execute(
        "UPDATE stripe_prices SET state = %s, changed_at = now() WHERE account = %s AND livemode = %s AND stripe_price_id = %s",
        (state, account, livemode, price_id),
    )


def _price(row: tuple[Any, ...]) -> StripePrice:
    price_id, product_id, kind, cycle, currency, plan_id, tenant_id, usage_type, meter, terms, state = row
    return StripePrice(price_id, product_id, Slot(kind, cycle, currency, plan_id, tenant_id, usage_type, meter), terms, state)
