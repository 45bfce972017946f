"""A run of the exporter on real Postgres: what is planned, what reaches Stripe, what is held and told."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from billing_exporter.setup import ensure_meters_and_customers, plan_setup
from runtime.exits import MeterlineExit
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.export_world import NOW, World, open_world
from tests.fakes.stripe_gateway import FakeGateway


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def world(migrated_postgres: Settings) -> Iterator[World]:
    with open_world(migrated_postgres) as opened:
        yield opened


def test_a_month_reaches_stripe_as_one_total_for_each_tenant_and_meter(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1.5")
    world.count("a", "QUICK", "2026-11-30", "0.000001")
    world.count("a", "DEEP", "2026-10-31", "100")
    world.count("a", "DEEP", "2026-12-01", "100")
    world.count("a", "FREE", "2026-11-02", "9")
    world.count("b", "CALL", "2026-11-02", "2.75")
    report = world.run()
    assert report.ok
    assert world.rows() == [("a", "units", 1, "accepted", 1_500_001), ("b", "calls", 1, "accepted", 2)]
    assert (world.shown("a"), world.shown("b", "calls")) == (1_500_001, 2)
    remainders = world.sql("SELECT exact_total, remainder FROM export_ledger ORDER BY tenant_id")
    assert remainders == [(Decimal("1.500001"), Decimal(0)), (Decimal("2.75"), Decimal("0.75"))]
    assert world.reconcile() == ["equal", "equal"]
    assert {row[3] for row in world.rows()} == {"confirmed"}


def test_each_transition_of_a_row_is_kept(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")
    world.run()
    world.reconcile()
    moves = world.sql("SELECT from_state, to_state FROM export_transitions ORDER BY id")
    assert moves == [(None, "planned"), ("planned", "sending"), ("sending", "accepted"), ("accepted", "confirmed")]


def test_a_dry_run_calls_nobody_writes_nothing_and_says_what_would_change(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1.5")
    world.run()
    world.count("a", "DEEP", "2026-11-02", "2")
    world.count("b", "DEEP", "2026-11-02", "3")
    before, calls = world.rows(), len(world.stripe.calls)
    lines = {line.tenant_id: line for line in world.plan()}
    assert (world.rows(), len(world.stripe.calls)) == (before, calls)
    assert (lines["a"].total, lines["a"].change, lines["a"].state, lines["a"].action) == (
        Decimal("3.5"),
        Decimal(2),
        "accepted",
        "insert",
    )
    assert (lines["b"].change, lines["b"].state, lines["b"].action) == (Decimal(3), "new", "insert")


def test_a_run_without_news_sends_nothing(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1.5")
    world.run()
    report = world.run()
    assert (report.planned, report.unchanged, len(world.stripe.calls)) == (0, 1, 1)


def test_revisions_carry_the_running_total_with_rising_timestamps_and_the_last_one_counts(world: World) -> None:
    for number, quantity in enumerate(["1", "2", "-2.5", "-5"]):
        world.count("a", "DEEP", f"2026-11-0{number + 1}", quantity)
        assert world.run().ok
    assert [row[3:] for row in world.rows()] == [
        ("superseded", 1_000_000),
        ("superseded", 3_000_000),
        ("superseded", 500_000),
        ("accepted", 0),
    ]
    times = [row[0] for row in world.sql("SELECT event_time FROM export_ledger ORDER BY revision")]
    assert times == [NOW + timedelta(seconds=number) for number in range(4)]
    assert world.shown("a") == 0
    assert world.sql("SELECT remainder FROM export_ledger WHERE revision = 4") == [(Decimal(-4_500_000),)]


def test_a_past_month_is_stamped_in_its_last_minute_and_a_late_event_raises_it(world: World) -> None:
    world.count("a", "DEEP", "2026-10-05", "1")
    world.count("a", "DEEP", "2026-11-05", "10")
    assert world.run(None).ok
    world.count("a", "DEEP", "2026-10-06", "0.5")
    assert world.run(None).ok
    assert (world.shown("a", month=10), world.shown("a", month=11)) == (1_500_000, 10_000_000)
    end = datetime(2026, 11, 1, tzinfo=UTC)
    times = [
        row[0] for row in world.sql("SELECT event_time FROM export_ledger WHERE period_start = '2026-10-01' ORDER BY revision")
    ]
    assert times == [end - timedelta(seconds=60), end - timedelta(seconds=59)]


def test_all_periods_takes_each_month_with_usage_and_leaves_what_stripe_would_refuse_to_a_person(world: World) -> None:
    for month in ("09", "10", "11"):
        world.count("a", "DEEP", f"2026-{month}-05", "1")
    report = world.run(None, every=True)
    assert not report.ok
    assert [row[3] for row in world.rows()] == ["manual", "accepted", "accepted"]
    assert [row.reason and row.reason[:8] for row in report.open_rows] == ["too_old:"]
    assert len(world.stripe.calls) == 2
    again = world.run(None, every=True)
    assert (again.planned, len(world.stripe.calls)) == (0, 2)


def test_a_period_begins_on_the_tenants_anchor_day(world: World) -> None:
    world.sql("UPDATE tenants SET anchor_day = 15 WHERE tenant_id = 'a'")
    for day in ("2026-10-14", "2026-10-15", "2026-11-14", "2026-11-15"):
        world.count("a", "DEEP", day, "1")
    assert world.run((2026, 10)).ok
    assert world.run((2026, 11)).ok
    rows = world.sql("SELECT period_start, period_end, value FROM export_ledger ORDER BY 1")
    assert rows == [(date(2026, 10, 15), date(2026, 11, 15), 2_000_000), (date(2026, 11, 15), date(2026, 12, 15), 1_000_000)]


def test_a_tenant_without_a_customer_is_told_and_the_others_go_on(world: World) -> None:
    world.sql("UPDATE tenants SET stripe_customer_id = NULL WHERE tenant_id = 'a'")
    for tenant in ("a", "b"):
        world.count(tenant, "DEEP", "2026-11-01", "1")
    report = world.run()
    assert [(line.tenant_id, line.action) for line in report.problems] == [("a", "no_customer")]
    assert report.ok
    assert [row[0] for row in world.rows()] == ["b"]


def test_a_tenant_whose_subscription_has_other_periods_is_held_until_that_is_resolved(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "5")
    world.sql(
        "INSERT INTO subscriptions (subscription_id, tenant_id, provider, origin, quantity, addons, currency, status, misaligned,"
        " period_start, period_end, cancel_at_period_end, created_at) VALUES ('sub_aaaaaaaaaaaaaaaaaaaaaaaa', 'a', 'stripe',"
        " 'imported', 1, '[]', 'usd', 'active', true, '2026-11-09', '2026-12-09', false, '2026-11-09')"
    )
    (held,) = world.run().problems
    assert (held.tenant_id, held.action, held.reason.split(":")[0]) == ("a", "hold", "misaligned")
    assert world.shown("a") is None
    world.sql("UPDATE subscriptions SET misaligned = false")
    assert world.run().problems == []
    assert world.shown("a") == 5_000_000


def test_usage_that_the_catalog_does_not_explain_is_told(world: World) -> None:
    world.count("a", "TYPO", "2026-11-01", "3")
    world.count("nobody", "DEEP", "2026-11-01", "2")
    report = world.run()
    assert {(one.tenant_id, one.usage_type, one.quantity, one.reason) for one in report.unmapped} == {
        ("a", "TYPO", Decimal(3), "unknown_usage_type"),
        ("nobody", "DEEP", Decimal(2), "unknown_tenant"),
    }
    assert world.rows() == []


def test_sixteen_digits_are_held_by_name(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1000000000")
    report = world.run()
    assert [(line.tenant_id, line.action, "too_large" in line.reason) for line in report.problems] == [("a", "hold", True)]
    assert world.stripe.calls == []


def test_a_mapping_is_frozen_with_a_periods_first_plan(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")
    world.run()
    world.sql("UPDATE usage_types SET meter = 'calls' WHERE usage_type = 'DEEP'")
    world.sql("UPDATE meters SET scale = 10 WHERE meter = 'units'")
    world.count("a", "DEEP", "2026-11-02", "1")
    world.count("a", "CALL", "2026-11-02", "7")
    assert world.run().ok
    assert (world.shown("a"), world.shown("a", "calls")) == (2_000_000, 7)


def test_a_customer_that_changed_within_a_period_is_left_to_a_person(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "5")
    world.run()
    other = world.stripe.create_customer("other", "")
    world.sql("UPDATE tenants SET stripe_customer_id = %s WHERE tenant_id = 'a'", other.id)
    world.count("a", "DEEP", "2026-11-02", "1")
    report = world.run()
    assert [(line.action, "billed to cus_a" in line.reason) for line in report.problems] == [("hold", True)]


def test_setup_adopts_what_is_there_and_names_what_it_cannot_put_right(world: World) -> None:
    world.sql("UPDATE tenants SET stripe_customer_id = NULL WHERE tenant_id = 'a'")
    world.stripe.deactivate("calls")
    plan = plan_setup(world.connection, world.stripe)
    assert plan.counts == {"meters": {"reactivate": 1, "ok": 1}, "customers": {"adopt": 1, "ok": 1}}
    ensure_meters_and_customers(world.settings, world.stripe)
    assert not plan_setup(world.connection, world.stripe).changes
    world.sql("UPDATE meters SET mode = 'sum' WHERE meter = 'units'")
    world.sql("INSERT INTO tenants (tenant_id) VALUES ('c')")
    world.stripe.delete("cus_b")
    with pytest.raises(MeterlineExit, match=r"never changes.*Stripe has no customer cus_b"):
        ensure_meters_and_customers(world.settings, world.stripe)
    assert world.sql("SELECT stripe_customer_id FROM tenants WHERE tenant_id = 'c'") == [("cus_c",)]


def test_setup_refuses_a_live_key(world: World) -> None:
    with pytest.raises(MeterlineExit, match="repeat with --live"):
        ensure_meters_and_customers(world.settings, FakeGateway(livemode=True))


def test_a_run_that_was_asked_to_compare_compares_everything_and_takes_the_request_out(world: World) -> None:
    world.count("a", "CALL", "2026-11-03", "1.5")
    assert world.run().ok
    assert world.sql("SELECT state FROM export_ledger") == [("accepted",)]
    assert world.run().ok
    assert world.sql("SELECT state FROM export_ledger") == [("accepted",)]
    world.sql("INSERT INTO reconcile_requests (reason) VALUES ('meter events that Stripe could not use')")
    assert world.run().ok
    assert world.sql("SELECT state FROM export_ledger") == [("confirmed",)]
    assert world.sql("SELECT id FROM reconcile_requests") == []
