"""A catalog that is sold, a local Stripe with its prices, and what the tests of the control plane do with both."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from control_plane.parts import Parts, parts_of
from control_plane.provider.port import Provider
from control_plane.unit import Actor, Units
from runtime.postgres import connect
from runtime.settings import Settings
from store import stripe_prices
from store.stripe_prices import Slot
from tests.fakes.local_stripe_server import LocalStripeServer

ACTOR = Actor("test", "req-1")
CARD = "pm_card_visa"
DECLINED = "pm_card_chargeCustomerFail"

BASE = {
    # (plan, currency, cycle): amount in minor units
    ("studio", "usd", "monthly"): 4900,
    ("studio", "usd", "yearly"): 49000,
    ("studio", "jpy", "monthly"): 7000,
    ("studio", "kwd", "monthly"): 14990,
    ("agency", "usd", "monthly"): 19900,
    ("agency", "usd", "yearly"): 199000,
}


@dataclass
class Shop:
    """Everything together."""

    settings: Settings
    stripe: LocalStripeServer
    parts: Parts
    prices: dict[str, str]

    @property
    def units(self) -> Units:
        return self.parts.units

    @property
    def provider(self) -> Provider:
        return self.parts.provider

    def tenant(self, *, plan: str | None = None, anchor_day: int = 1) -> str:
        """A new one, with a name of its own."""
        tenant_id = f"tnt_{secrets.token_hex(6)}"
        with connect(self.settings) as connection:
            connection.execute(
                "INSERT INTO tenants (tenant_id, name, plan_id, anchor_day) VALUES (%s, %s, %s, %s)",
                (tenant_id, f"Name of {tenant_id}", plan, anchor_day),
            )
        return tenant_id

    def row(self, sql: str, *parameters: object) -> tuple[Any, ...]:
        with connect(self.settings) as connection:
            found = connection.execute(sql.encode(), parameters).fetchall()
        assert len(found) == 1, found
        return tuple(found[0])

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with connect(self.settings) as connection:
            return [tuple(row) for row in connection.execute(sql.encode(), parameters).fetchall()]

    def execute(self, sql: str, *parameters: object) -> None:
        with connect(self.settings) as connection:
            connection.execute(sql.encode(), parameters)

    def at_stripe(self, tenant_id: str) -> list[Any]:
        """The tenant's subscriptions at Stripe, newest first."""
        (customer,) = self.row("SELECT stripe_customer_id FROM tenants WHERE tenant_id = %s", tenant_id)
        if customer is None:
            return []
        return self.stripe.client().v1.subscriptions.list({"customer": customer, "status": "all"}).data


@contextmanager
def shop(settings: Settings, data: Path) -> Iterator[Shop]:
    """The shop while the block runs."""
    with LocalStripeServer(data) as server:
        configured = settings.model_copy(
            update={
                "stripe_secret_key": SecretStr(server.key),
                "stripe_api_base": server.url,
                "stripe_timeout_s": 10.0,
            }
        )
        parts = parts_of(configured)
        try:
            yield Shop(configured, server, parts, _sell(configured, server, parts.provider.account()))
        finally:
            parts.units.close()


def _sell(settings: Settings, server: LocalStripeServer, account: str) -> dict[str, str]:
    client, made = server.client(), {}
    meter = client.v1.billing.meters.create(
        {
            "display_name": "renders",
            "event_name": "renders",
            "default_aggregation": {"formula": "last"},
            "customer_mapping": {"type": "by_id", "event_payload_key": "stripe_customer_id"},
            "value_settings": {"event_payload_key": "value"},
        }
    ).id
    product = client.v1.products.create({"name": "Plans"}).id
    with connect(settings) as connection:
        connection.execute("INSERT INTO features (feature, description) VALUES ('api', 'Access for programs')")
        connection.execute("INSERT INTO meters (meter, scale, rounding, mode) VALUES ('renders', 1000, 'floor', 'last')")
        connection.execute("INSERT INTO usage_types (usage_type, unit, meter) VALUES ('RENDER', 'minute', 'renders')")
        connection.execute(
            "INSERT INTO plans (plan_id, name, currency) VALUES ('free', 'Free', NULL), ('studio', 'Studio', 'usd'),"
            " ('agency', 'Agency', 'usd')"
        )
        connection.execute("INSERT INTO plan_features VALUES ('studio', 'api', true), ('free', 'api', false)")
        connection.execute(
            "INSERT INTO plan_limits (plan_id, usage_type, quantity, hard, overage_price, period) VALUES"
            " ('studio', 'RENDER', 600, false, 0.02, 'billing_period'), ('free', 'RENDER', 5, true, NULL, 'billing_period'),"
            " ('agency', 'RENDER', 9000, true, NULL, 'billing_period')"
        )
        connection.execute(
            "INSERT INTO plan_overage_prices VALUES ('studio', 'jpy', 'RENDER', 3), ('studio', 'kwd', 'RENDER', 0.006)"
        )
        for (plan, currency, cycle), amount in BASE.items():
            connection.execute("INSERT INTO plan_prices VALUES (%s, %s, %s, %s)", (plan, currency, cycle, amount))
            interval = "month" if cycle == "monthly" else "year"
            price = client.v1.prices.create(
                {"product": product, "currency": currency, "unit_amount": amount, "recurring": {"interval": interval}}
            ).id
            slot = Slot("base", cycle, currency, plan)  # type: ignore[arg-type]
            stripe_prices.record(connection, account, False, slot, price, product, {"amount": str(amount)})
            made[f"{plan} {currency} {cycle}"] = price
        for currency, unit_amount in (("usd", "0.002"), ("jpy", "0.003"), ("kwd", "0.006")):
            tiers = [{"up_to": 600_000, "unit_amount_decimal": "0"}, {"up_to": "inf", "unit_amount_decimal": unit_amount}]
            price = client.v1.prices.create(
                {
                    "product": product,
                    "currency": currency,
                    "billing_scheme": "tiered",
                    "tiers_mode": "graduated",
                    "tiers": tiers,  # type: ignore[typeddict-item]
                    "recurring": {"interval": "month", "usage_type": "metered", "meter": meter},
                }
            ).id
            slot = Slot("overage", "monthly", currency, "studio", None, "RENDER", "renders")
            stripe_prices.record(connection, account, False, slot, price, product, {"unit_amount": unit_amount})
            made[f"overage {currency}"] = price
        seat = client.v1.prices.create(
            {"product": product, "currency": "usd", "unit_amount": 1500, "recurring": {"interval": "month"}}
        ).id
        made["addon"] = seat
    return made
