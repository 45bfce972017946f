"""The exporter when things break: answers that are lost, senders that die, keys that turn wrong, two at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from billing_exporter import planning
from billing_exporter.exporter import RunReport, run
from billing_exporter.gateway import Account, MeterEvent
from billing_exporter.planning import Line
from billing_exporter.sending import Sender
from billing_exporter.setup import ensure_meters_and_customers
from billing_exporter.truth import TotalsBelow, TruthAway
from metering.export_states import MOVES, Refused, Unclear
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.export_world import NOVEMBER, NOW, World, open_world
from tests.fakes.stripe_gateway import Fault


class Crash(BaseException):
    """Stands for `kill -9`: nothing catches it."""


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def world(migrated_postgres: Settings) -> Iterator[World]:
    with open_world(migrated_postgres) as opened:
        yield opened


def test_a_tenant_whose_counters_differ_from_clickhouse_is_held_and_the_others_go_on(world: World) -> None:
    for tenant in ("a", "b"):
        world.count(tenant, "DEEP", "2026-11-01", "1")
        world.count(tenant, "CALL", "2026-11-01", "1")
    world.truth["a", "CALL"] = Decimal("1.5")
    report = world.run()
    assert not report.ok
    assert "clickhouse 1.5, counters 1" in report.held["a"]
    assert {event.customer_id for event in world.stripe.calls} == {"cus_b"}
    states = world.sql("SELECT tenant_id, state, left(reason, 5) FROM export_ledger ORDER BY tenant_id, meter")
    assert states == [("a", "planned", "held:"), ("a", "planned", "held:"), ("b", "accepted", None), ("b", "accepted", None)]
    del world.truth["a", "CALL"]
    assert world.run().ok
    assert world.shown("a") == 1_000_000


def test_nothing_is_sent_while_clickhouse_is_away(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")

    def away() -> AbstractContextManager[TotalsBelow]:
        raise TruthAway("no")

    def sender_of(account: Account) -> Sender:
        return Sender(world.settings, world.stripe, account, away, now=lambda: world.now)

    with pytest.raises(TruthAway):
        run(world.settings, world.stripe, sender_of, b"key", world.totals, month=NOVEMBER, now=lambda: world.now)
    assert world.stripe.calls == []
    assert world.run().ok


def test_a_refused_row_stays_with_its_reason_and_hurts_no_other_tenant(world: World) -> None:
    for tenant in ("a", "b"):
        world.count(tenant, "DEEP", "2026-11-01", "1")
    world.stripe.delete("cus_a")
    report = world.run()
    assert [(row.tenant_id, row.state) for row in report.open_rows] == [("a", "rejected")]
    assert "No such customer" in (report.open_rows[0].reason or "")
    assert world.shown("b") == 1_000_000
    # the same payload is not tried again by itself; a newer total is
    assert len([event for event in world.stripe.calls if event.customer_id == "cus_a"]) == 1
    world.run()
    assert len([event for event in world.stripe.calls if event.customer_id == "cus_a"]) == 1


@pytest.mark.parametrize("fault", ["lose", "cut"])
def test_an_answer_that_is_lost_leads_to_the_same_total_once(world: World, fault: Fault) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")
    faults = [fault]
    world.stripe.fault = lambda _: faults.pop() if faults else "none"
    report = world.run()
    assert [row.state for row in report.open_rows] == ["retry_wait"]
    world.now += timedelta(seconds=1)
    assert world.run().ok
    first, second = world.stripe.calls
    assert first == second
    assert len(world.stripe.stored) == 1
    assert world.reconcile() == ["equal"]


def test_a_newer_total_waits_until_the_unclear_one_is_settled(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")
    world.stripe.fault = lambda _: Unclear("500")
    world.run()
    world.count("a", "DEEP", "2026-11-02", "1")
    report = world.run()
    assert [line.action for line in report.problems] == ["wait"]
    world.stripe.fault = lambda _: "none"
    world.now += timedelta(minutes=1)
    world.run()
    world.run()
    assert [row[3:] for row in world.rows()] == [("superseded", 1_000_000), ("accepted", 2_000_000)]
    assert world.shown("a") == 2_000_000


def test_one_period_in_flight_holds_the_next_one_of_the_same_customer_and_meter(world: World) -> None:
    world.count("a", "DEEP", "2026-10-05", "1")
    world.count("a", "DEEP", "2026-11-05", "2")
    world.stripe.fault = lambda event: Unclear("500") if event.value == 1_000_000 else "none"
    report = world.run(None)
    assert [(line.period.start.month, line.action) for line in report.problems] == [(11, "wait")]
    world.stripe.fault = lambda _: "none"
    world.now += timedelta(minutes=1)
    # the first round sends October's, the second plans and sends November's
    assert world.run(None).ok
    assert (world.shown("a", month=10), world.shown("a", month=11)) == (1_000_000, 2_000_000)


@pytest.mark.parametrize("point", ["exporter.before_sending", "exporter.posted", "exporter.before_accepted"])
def test_a_sender_that_dies_anywhere_leaves_a_row_that_the_next_one_finishes(world: World, point: str) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")

    def die(name: str) -> None:
        if name == point:
            raise Crash(name)

    world.reached = die
    with pytest.raises(Crash):
        world.run()
    world.reached = lambda _: None
    expected = "planned" if point == "exporter.before_sending" else "sending"
    assert [row[3] for row in world.rows()] == [expected]
    if expected == "sending":
        assert not world.run().ok  # the dead one's lease still stands
    world.end_leases()
    assert world.run().ok
    assert len({event.identifier for event in world.stripe.calls}) == 1
    assert len(world.stripe.stored) == 1
    assert world.reconcile() == ["equal"]


@pytest.mark.parametrize(("arrived", "to"), [(True, "accepted"), (False, "superseded")])
def test_an_outage_of_a_day_ends_in_what_the_summary_shows(world: World, arrived: bool, to: str) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")
    world.stripe.fault = lambda _: "cut" if arrived else "lose"
    world.run()
    world.now += timedelta(hours=25)
    calls = len(world.stripe.calls)
    assert [row.state for row in world.run().open_rows] == ["ambiguous"]
    assert len(world.stripe.calls) == calls
    world.stripe.fault = lambda _: "none"
    world.now += timedelta(hours=1)
    assert world.run().ok
    assert [row[3] for row in world.rows()] == (["accepted"] if arrived else ["superseded", "accepted"])
    assert world.rows()[0][3] == to
    assert world.shown("a") == 1_000_000


def test_a_refusal_after_an_unclear_try_is_not_taken_for_proof(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "1")
    answers: list[Any] = [Refused("400: gone"), "cut"]
    world.stripe.fault = lambda _: answers.pop() if answers else "none"
    world.run()
    world.now += timedelta(seconds=1)
    assert [row.state for row in world.run().open_rows] == ["ambiguous"]
    assert world.run().ok
    assert world.shown("a") == 1_000_000


def test_a_wrong_key_ends_the_run_and_keeps_the_rows(world: World) -> None:
    for tenant in ("a", "b"):
        world.count(tenant, "DEEP", "2026-11-01", "1")

    def turn_wrong(_: str) -> None:
        world.stripe.wrong_key = True

    world.reached = turn_wrong
    report = world.run()
    assert report.halted is not None
    assert world.stripe.stored == []
    assert {row.state for row in report.open_rows} <= {"planned", "retry_wait"}
    assert len(report.open_rows) == 2
    world.reached = lambda _: None
    with pytest.raises(MeterlineExit, match="METERLINE_STRIPE_SECRET_KEY") as caught:
        world.run()
    assert caught.value.code == Exit.SETTINGS
    world.stripe.wrong_key = False
    assert world.run().ok
    assert (world.shown("a"), world.shown("b")) == (1_000_000, 1_000_000)


def test_counters_that_went_back_are_held(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "5")
    world.run()
    # a restored Postgres: fewer events, smaller positions
    world.sql("UPDATE usage_counters SET quantity = 3")
    world.sql("ALTER TABLE delta_fences DISABLE TRIGGER USER")
    world.sql("UPDATE delta_fences SET next_offset = 0, admitted = 0")
    world.sql("ALTER TABLE delta_fences ENABLE TRIGGER USER")
    report = world.run()
    assert [(line.action, "behind the last export" in line.reason) for line in report.problems] == [("hold", True)]
    assert world.shown("a") == 5_000_000


def test_a_summary_that_differs_is_drift_once_it_had_time_to_settle(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "5")
    world.run()
    at = NOW + timedelta(seconds=30)
    world.stripe.send(MeterEvent("units", "cus_a", "somebody else", 4, at))
    assert world.reconcile() == ["waiting"]
    world.now += timedelta(hours=1)
    assert world.reconcile() == ["drift"]
    assert world.reconcile() == []
    state, reason = world.sql("SELECT state, reason FROM export_ledger")[0]
    assert (state, reason) == ("manual", "drift: the summary shows 4, expected 5000000")


def test_totals_that_stripe_took_and_never_counted_are_sent_anew(world: World) -> None:
    """However many in a row: the summary then shows one of the older ones, or nothing."""
    world.count("a", "DEEP", "2026-11-01", "5")
    world.run()
    for quantity in ("1", "2"):
        world.count("a", "DEEP", "2026-11-02", quantity)
        world.run()
        world.stripe.stored.pop()
    world.now += timedelta(hours=1)
    assert world.reconcile() == ["resend"]
    assert world.run().ok
    assert world.shown("a") == 8_000_000
    assert world.reconcile() == ["equal"]


def test_a_confirmed_total_that_changes_at_stripe_is_drift_for_as_long_as_it_does(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "5")
    world.run()
    assert world.reconcile() == ["equal"]
    world.stripe.send(MeterEvent("units", "cus_a", "somebody else", 4, NOW + timedelta(seconds=30)))
    assert world.reconcile() == ["drift"]
    assert world.reconcile() == ["drift"]
    assert [row[3] for row in world.rows()] == ["confirmed"]


def test_a_test_key_is_refused_by_a_database_that_a_live_account_bills(world: World) -> None:
    world.sql(
        "INSERT INTO export_heads (account, livemode, customer_id, meter, tenant_id) VALUES ('acct_l', true, 'c', 'm', 'a')"
    )
    world.count("a", "DEEP", "2026-11-01", "5")
    with pytest.raises(MeterlineExit, match=r"billed by the live account acct_l, and .* is a test key") as caught:
        world.run()
    assert caught.value.code == Exit.SETTINGS
    assert world.stripe.calls == []
    assert world.sql("SELECT count(*) FROM period_closes") == [(0,)]


def test_two_exporters_at_once_send_each_total_once(world: World) -> None:
    world.sql("INSERT INTO tenants (tenant_id) SELECT 't' || n FROM generate_series(1, 30) n")
    ensure_meters_and_customers(world.settings, world.stripe)
    for number in range(1, 31):
        world.count(f"t{number}", "DEEP", "2026-11-01", str(number))
    reports: list[RunReport] = []
    threads = [threading.Thread(target=lambda: reports.append(world.run())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.run()
    assert len(reports) == 2
    assert [world.shown(f"t{number}") for number in range(1, 31)] == [number * 1_000_000 for number in range(1, 31)]
    assert (len(world.stripe.calls), world.stripe.overlaps) == (30, 0)


def test_a_stripe_that_answers_nothing_is_left_alone_for_this_run(world: World) -> None:
    world.sql("INSERT INTO tenants (tenant_id) SELECT 't' || n FROM generate_series(1, 200) n")
    ensure_meters_and_customers(world.settings, world.stripe)
    for number in range(1, 201):
        world.count(f"t{number}", "DEEP", "2026-11-01", "1")
    world.stripe.fault = lambda _: "lose"
    report = world.run()
    assert report.away is not None
    assert 50 <= len(world.stripe.calls) < 50 + 2 * world.settings.stripe_concurrency
    world.stripe.fault = lambda _: "none"
    world.now += timedelta(minutes=1)
    assert world.run().ok


def test_no_more_calls_are_under_way_than_the_setting_allows(world: World) -> None:
    world.settings = world.settings.model_copy(update={"stripe_concurrency": 3})
    world.sql("INSERT INTO tenants (tenant_id) SELECT 't' || n FROM generate_series(1, 12) n")
    ensure_meters_and_customers(world.settings, world.stripe)
    for number in range(1, 13):
        world.count(f"t{number}", "DEEP", "2026-11-01", "1")
    together = threading.Barrier(3)

    def slow(_: MeterEvent) -> Fault:
        together.wait(timeout=30)  # until three are there
        return "none"

    world.stripe.fault = slow
    assert world.run().ok
    assert (len(world.stripe.calls), world.stripe.busy_max) == (12, 3)


def test_planning_reads_totals_after_it_has_the_lock(world: World) -> None:
    """Two planners: the one that waited for the lock must not export the total from before its wait."""
    world.count("a", "DEEP", "2026-11-01", "1")
    world.run()
    world.count("a", "DEEP", "2026-11-02", "1")
    account = Account("acct_fake", False)
    with postgres.connect(world.settings) as holder, postgres.connect(world.settings) as planner:
        holder.execute("SELECT FROM export_heads WHERE customer_id = 'cus_a' AND meter = 'units' FOR UPDATE")
        which = planning.rounds(planner, NOW.date(), NOVEMBER, False)[0]
        lines: list[Line] = []
        waiting = threading.Thread(target=lambda: lines.extend(planning.plan(planner, account, which, NOW, write=True)))
        waiting.start()
        pid = planner.info.backend_pid
        while not world.sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", pid):
            assert waiting.is_alive()
        world.count("a", "DEEP", "2026-11-03", "1")
        holder.rollback()
        waiting.join()
    assert [line.value for line in lines] == [3_000_000]


def test_the_database_refuses_arrows_that_the_machine_lacks_and_any_change_of_a_payload(world: World) -> None:
    moves = {(row[0], row[1]) for row in world.sql("SELECT from_state, to_state FROM export_moves")}
    assert moves == {(start, end) for start, ends in MOVES.items() for end in ends}
    world.count("a", "DEEP", "2026-11-01", "1")
    world.run()
    for change in ("state = 'planned'", "value = 2", "identifier = 'x'", "event_time = now()", "positions = '{}'"):
        with pytest.raises(psycopg.errors.RaiseException):
            world.sql(f"UPDATE export_ledger SET {change}")
