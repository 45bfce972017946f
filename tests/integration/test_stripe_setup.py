"""`meterline stripe setup`: the catalog's prices at a Stripe, made once, changed by new ones, billing what the catalog says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from billing_exporter import price_setup
from billing_exporter.gateway import GatewayAway, MeterEvent
from billing_exporter.setup import plan_setup
from billing_exporter.stripe_gateway import StripeGateway
from metering.export_states import Delivered
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import catalog, stripe_prices
from store.catalog_file import parse_catalog
from store.stripe_prices import PriceMissing
from tests.fakes.local_stripe_server import LocalStripeServer
from tests.fakes.stripe_gateway import FakeGateway

PRICES = """    currency: usd
    prices:
      usd: {monthly: 4900, yearly: 49000}
      jpy: {monthly: 7000, overage: {DEEP: 3, STORAGE: 0.2}}
"""
CATALOG = f"""
meters: {{deep: {{}}, storage: {{}}}}
usage_types:
  DEEP: {{description: Deep looks, meter: deep}}
  STORAGE: {{meter: storage}}
plans:
  studio:
    name: Studio
{PRICES}    limits:
      DEEP: {{limit: 2000, enforce: soft, overage_price: 0.04, period: billing_period}}
      STORAGE: {{limit: 0, enforce: soft, overage_price: 0.000001, period: billing_period}}
tenants:
  a: {{name: A, plan: studio}}
  b:
    plan: studio
    limits: {{DEEP: {{limit: 2.5, enforce: soft, overage_price: 0.03, period: billing_period}}}}
  c: {{plan: studio, limits: {{DEEP: {{limit: 10, period: billing_period}}}}}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture
def gateway(server: LocalStripeServer) -> StripeGateway:
    return StripeGateway(server.key, api_base=server.url, timeout_s=10)


@pytest.fixture
def connection(migrated: Settings, gateway: StripeGateway) -> Iterator[psycopg.Connection[Any]]:
    """The catalog above, and a Stripe on which no price is on offer."""
    with postgres.connect(migrated) as opened:
        opened.execute(
            "TRUNCATE catalog_versions, meters, features, usage_types, plans, tenants, audit, usage_totals, export_ledger,"
            " stripe_prices RESTART IDENTITY CASCADE"
        )
        catalog.apply(opened, parse_catalog(CATALOG), by="tester")
        opened.commit()
        for meter in ("deep", "storage"):
            gateway.create_meter(meter, meter, "last")
        yield opened


def put_right(connection: psycopg.Connection[Any], gateway: StripeGateway) -> dict[str, dict[str, int]]:
    """What a run of setup did."""
    plan = price_setup.plan_prices(connection, gateway)
    price_setup.apply_prices(connection, gateway, plan)
    return plan.counts


def changed(connection: psycopg.Connection[Any], *replaced: tuple[str, str]) -> None:
    text = CATALOG
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    catalog.apply(connection, parse_catalog(text), by="tester")
    connection.commit()


def offered(server: LocalStripeServer) -> dict[str, Any]:
    """Lookup key to price, of what can be subscribed to."""
    found = server.client().v1.prices.list({"active": True, "limit": 100, "expand": ["data.tiers"]})
    return {str(price.lookup_key): price for price in found.data if price.lookup_key}


def test_every_price_of_the_catalog_is_made_once_and_repeating_changes_nothing(
    connection: psycopg.Connection[Any], gateway: StripeGateway, server: LocalStripeServer
) -> None:
    put_right(connection, gateway)
    made = offered(server)
    assert len(made) == 3 + 4 + 1
    again = price_setup.plan_prices(connection, gateway)
    assert not again.changes
    assert again.counts == {"products": {"ok": 3}, "prices": {"ok": 8}}
    price_setup.apply_prices(connection, gateway, again)
    assert {key: price.id for key, price in offered(server).items()} == {key: price.id for key, price in made.items()}
    account = gateway.account()
    base = stripe_prices.base_price(connection, account.id, False, "studio", "yearly", "usd")
    assert base is not None
    assert base.terms == {"amount": "49000"}
    assert made[_key(made, base.price_id)].recurring.interval == "year"
    deep, storage = stripe_prices.overage_prices(connection, account.id, False, "studio", "a", "usd")
    assert (deep.terms, storage.terms) == (
        {"included": "2000000000", "unit_amount": "0.000004"},
        {"included": "0", "unit_amount": "0.0000000001"},
    )


def _key(made: dict[str, Any], price_id: str) -> str:
    (key,) = [key for key, price in made.items() if price.id == price_id]
    return key


def test_a_tenants_own_limit_is_billed_by_a_price_of_its_own_and_a_hard_one_by_none(
    connection: psycopg.Connection[Any], gateway: StripeGateway
) -> None:
    put_right(connection, gateway)
    account = gateway.account().id

    def billed(tenant: str, currency: str = "usd") -> dict[str | None, tuple[str | None, str]]:
        found = stripe_prices.overage_prices(connection, account, False, "studio", tenant, currency)
        return {price.slot.usage_type: (price.slot.tenant_id, price.terms["included"]) for price in found}

    assert billed("a") == {"DEEP": (None, "2000000000"), "STORAGE": (None, "0")}
    assert billed("b") == {"DEEP": ("b", "2500000"), "STORAGE": (None, "0")}
    assert billed("c") == {"STORAGE": (None, "0")}
    assert billed("a", "jpy") == billed("a")
    # Its own price is in the plan's currency only: better no subscription than one that bills nothing beyond the limit.
    with pytest.raises(PriceMissing, match="DEEP"):
        billed("b", "jpy")


def test_stripe_bills_the_overage_alone_and_exactly(
    connection: psycopg.Connection[Any], gateway: StripeGateway, server: LocalStripeServer
) -> None:
    put_right(connection, gateway)
    customer, client = gateway.create_customer("billed", "").id, server.client()
    prices = stripe_prices.overage_prices(connection, gateway.account().id, False, "studio", "a", "usd")
    subscription = client.v1.subscriptions.create(
        {"customer": customer, "items": [{"price": price.price_id} for price in prices], "collection_method": "send_invoice",
         "days_until_due": 30}
    )  # fmt: skip

    def owed(number: int, deep: int) -> int:
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=number)
        assert gateway.send(MeterEvent("deep", customer, f"{customer}-{number}", deep, at)) == Delivered()
        return client.v1.invoices.create_preview({"subscription": subscription.id}).total

    # 2,000 looks are included; each beyond costs four cents, and a quarter of one costs one.
    assert owed(1, 2_000 * 1_000_000) == 0
    assert owed(2, 2_500 * 1_000_000) == 500 * 4
    assert owed(3, 2_500_250_000) == 500 * 4 + 1


def test_other_terms_are_a_new_price_and_the_old_one_is_offered_no_more(
    connection: psycopg.Connection[Any], gateway: StripeGateway, server: LocalStripeServer
) -> None:
    put_right(connection, gateway)
    before = offered(server)
    changed(connection, ("monthly: 4900", "monthly: 5900"), ("overage_price: 0.04", "overage_price: 0.05"))
    assert put_right(connection, gateway)["prices"] == {"ok": 6, "replace": 2}
    after = offered(server)
    assert set(after) == set(before)
    assert sum(after[key].id != before[key].id for key in after) == 2
    # Back again: new prices, for what is archived stays so.
    changed(connection)
    assert put_right(connection, gateway)["prices"] == {"ok": 6, "replace": 2}
    assert {price.id for price in offered(server).values()}.isdisjoint(
        {before[key].id for key in after if after[key].id != before[key].id}
    )
    assert not price_setup.plan_prices(connection, gateway).changes


def test_what_the_catalog_names_no_more_is_offered_no_more(
    connection: psycopg.Connection[Any], gateway: StripeGateway, server: LocalStripeServer
) -> None:
    put_right(connection, gateway)
    changed(connection, (", yearly: 49000", ""))
    assert put_right(connection, gateway)["prices"] == {"ok": 7, "archive": 1}
    assert len(offered(server)) == 7
    assert stripe_prices.base_price(connection, gateway.account().id, False, "studio", "yearly", "usd") is None


@pytest.mark.parametrize("fault", ["drop", "error"])
def test_a_run_that_stripe_cuts_short_is_finished_by_the_next_one(
    connection: psycopg.Connection[Any], gateway: StripeGateway, server: LocalStripeServer, fault: str
) -> None:
    """drop: each call is carried out and not answered. error: none is carried out."""
    amount = {"drop": 6900, "error": 7900}[fault]
    changed(
        connection,
        ("name: Studio", f"name: Studio {fault}"),
        ("monthly: 4900, yearly: 49000", f"monthly: {amount}, yearly: {amount}0"),
        ("monthly: 7000", f"monthly: {amount}"),
        ("0.04", f"0.0{amount}"),
    )
    server.admin("faults", {"rates": {fault: 0.5}, "seed": 3})
    broken = 0
    try:
        for _ in range(60):
            try:
                if not put_right(connection, gateway)["prices"].keys() - {"ok"}:
                    break
            except GatewayAway:
                broken += 1
                connection.rollback()
    finally:
        server.admin("faults", {})
    assert broken > 1
    put_right(connection, gateway)
    assert len(offered(server)) == 8
    assert not price_setup.plan_prices(connection, gateway).changes
    recorded = stripe_prices.recorded(connection, gateway.account().id, False)
    assert {price.price_id for price in recorded} == {price.id for price in offered(server).values()}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("deep: {}", "deep: {scale: 1}", "tenant b: DEEP: 2.5 is no whole number of the meter's units at scale 1"),
        ("{meter: storage}", "{meter: deep}", "its meter deep adds it up with"),
        ("{meter: storage}", "{}", "give the usage type a `meter`"),
        ("0.000001, period: billing_period", "0.000001, period: month", "`period: billing_period`"),
        (PRICES, "", "plan studio says no currency for the overage_price of DEEP"),
    ],
)
def test_what_stripe_cannot_bill_is_named_with_the_remedy_and_the_rest_is_made(
    connection: psycopg.Connection[Any], gateway: StripeGateway, old: str, new: str, told: str
) -> None:
    changed(connection, (old, new))
    plan = price_setup.plan_prices(connection, gateway)
    assert any(told in step.reason for step in plan.wrong), [step.reason for step in plan.wrong]
    price_setup.apply_prices(connection, gateway, plan)
    assert price_setup.plan_prices(connection, gateway).counts["prices"].keys() <= {"ok", "wrong"}


def test_a_live_key_needs_the_word_and_the_word_a_live_key(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(MeterlineExit, match="repeat with --live"):
        plan_setup(connection, FakeGateway(livemode=True))
    with pytest.raises(MeterlineExit, match="is a test key"):
        plan_setup(connection, FakeGateway(), live=True)
    assert plan_setup(connection, FakeGateway(livemode=True), live=True).changes


def meterline(settings: Settings, server: LocalStripeServer, *words: str, **more: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "stripe", "setup", *words],
        env={
            "PATH": "/usr/bin:/bin",
            "METERLINE_POSTGRES_URL": settings.postgres_url.get_secret_value(),
            "METERLINE_STRIPE_SECRET_KEY": server.key,
            "METERLINE_STRIPE_API_BASE": server.url,
        }
        | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_shows_a_plan_needs_a_yes_and_holds_the_finalization_grace(
    connection: psycopg.Connection[Any], migrated: Settings, server: LocalStripeServer
) -> None:
    connection.execute("UPDATE tenants SET stripe_customer_id = NULL")
    connection.commit()
    status, shown, error = meterline(migrated, server)
    assert (status, "repeat with --yes" in error) == (Exit.USAGE, True)
    assert "2000000000 units free, then 0.000004" in shown
    status, shown, error = meterline(migrated, server, "--yes", "--json")
    assert status == 0, error
    assert [price["figures"]["amount"] for price in json.loads(shown)["prices"] if price["kind"] == "base"]
    assert meterline(migrated, server)[:2] == (0, meterline(migrated, server)[1])
    assert "nothing to do" in meterline(migrated, server)[1]
    status, _, error = meterline(migrated, server, METERLINE_CLOSE_GRACE_S="7200")
    assert (status, "METERLINE_EXPORT_DEADLINE_S" in error) == (Exit.SETTINGS, True)
