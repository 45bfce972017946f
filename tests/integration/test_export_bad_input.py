"""What Stripe refuses, through the official SDK and the local Stripe: the row says why, and nobody else is held up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from billing_exporter.reconciling import reconcile
from billing_exporter.setup import ensure_meters_and_customers
from billing_exporter.stripe_gateway import StripeGateway
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.export_world import NOW, World, open_world
from tests.fakes.local_stripe_server import LocalStripeServer


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    """A test's own: a customer that was deleted stays so."""
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        running.admin("clock", {"now": int(NOW.timestamp())})
        yield running


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def world(migrated_postgres: Settings, server: LocalStripeServer) -> Iterator[World]:
    with open_world(migrated_postgres) as opened:
        opened.sql("UPDATE tenants SET stripe_customer_id = NULL")
        opened.stripe = StripeGateway(server.key, api_base=server.url, timeout_s=20)  # type: ignore[assignment]
        ensure_meters_and_customers(opened.settings, opened.stripe)
        for tenant in ("a", "b"):
            opened.count(tenant, "DEEP", "2026-11-02", "1.5")
        yield opened


def refusal(world: World) -> str:
    """Why tenant `a` is refused, while `b` is at Stripe."""
    report = world.run()
    assert [(row.tenant_id, row.state) for row in report.open_rows] == [("a", "rejected")]
    assert world.sql("SELECT state FROM export_ledger WHERE tenant_id = 'b'") == [("accepted",)]
    # the same payload is not tried again by itself
    assert world.run().planned == 0
    return report.open_rows[0].reason or ""


def test_an_unknown_customer(world: World) -> None:
    world.sql("UPDATE tenants SET stripe_customer_id = 'cus_nobody' WHERE tenant_id = 'a'")
    assert "No such customer" in refusal(world)


def test_a_deleted_customer(world: World, server: LocalStripeServer) -> None:
    ((customer,),) = world.sql("SELECT stripe_customer_id FROM tenants WHERE tenant_id = 'a'")
    server.client().v1.customers.delete(customer)
    assert "No such customer" in refusal(world)


def test_a_meter_that_stripe_does_not_have(world: World) -> None:
    world.sql("INSERT INTO meters VALUES ('nowhere', 1, 'floor', 'last')")
    world.sql("INSERT INTO usage_types (usage_type, meter) VALUES ('LOST', 'nowhere')")
    world.count("a", "LOST", "2026-11-02", "3")
    report = world.run()
    assert [(row.meter, row.state) for row in report.open_rows] == [("nowhere", "rejected")]
    assert "nowhere" in (report.open_rows[0].reason or "")


def test_an_archived_meter(world: World, server: LocalStripeServer) -> None:
    meter = next(one for one in world.stripe.meters() if one.meter == "calls")
    server.client().v1.billing.meters.deactivate(meter.id)
    try:
        world.count("a", "CALL", "2026-11-02", "3")
        report = world.run()
        assert [(row.meter, row.state) for row in report.open_rows] == [("calls", "rejected")]
        assert "calls" in (report.open_rows[0].reason or "")
    finally:
        world.stripe.reactivate_meter(meter.id)


def test_a_net_below_zero_bills_nothing_and_is_no_error(world: World) -> None:
    world.count("a", "CALL", "2026-11-02", "3")
    assert world.run().ok
    world.count("a", "CALL", "2026-11-03", "-5")
    assert world.run().ok
    assert world.sql("SELECT value, remainder FROM export_ledger WHERE meter = 'calls' ORDER BY revision DESC LIMIT 1") == [
        (0, -2)
    ]
    compared = reconcile(world.settings, world.stripe, world.stripe.account(), now=lambda: world.now)
    assert [one.verdict for one in compared] == ["equal"] * 3


def test_sixteen_digits_are_held_before_any_call(world: World) -> None:
    world.count("a", "DEEP", "2026-11-02", "1000000000")
    report = world.run()
    assert [(line.tenant_id, line.action, line.reason[:9]) for line in report.problems] == [("a", "hold", "too_large")]
    assert world.sql("SELECT tenant_id FROM export_ledger") == [("b",)]


def test_a_timestamp_36_days_old_is_left_to_a_person_before_any_call(world: World) -> None:
    world.count("a", "CALL", "2026-09-03", "3")
    report = world.run((2026, 9))
    assert [(row.state, row.attempts) for row in report.open_rows] == [("manual", 0)]
    assert (report.open_rows[0].reason or "").startswith("too_old")
    assert NOW - report.open_rows[0].event_time > timedelta(days=36)


def test_a_wrong_key_halts_the_run_and_keeps_every_row(world: World, server: LocalStripeServer) -> None:
    world.run()
    kept = world.rows()
    right, world.stripe = world.stripe, StripeGateway("sk_test_of_somebody", api_base=server.url, timeout_s=20)  # type: ignore[assignment]
    with pytest.raises(MeterlineExit, match="METERLINE_STRIPE_SECRET_KEY") as caught:
        world.run()
    assert (caught.value.code, world.rows()) == (Exit.SETTINGS, kept)
    world.stripe = right
    assert world.run().ok


def test_a_test_key_against_a_database_that_a_live_account_bills(world: World) -> None:
    world.sql(
        "INSERT INTO export_heads (account, livemode, customer_id, meter, tenant_id) VALUES ('acct_l', true, 'cus', 'units', 'a')"
    )
    with pytest.raises(MeterlineExit, match=r"billed by the live account acct_l, and .* is a test key"):
        world.run()
    assert world.rows() == []
