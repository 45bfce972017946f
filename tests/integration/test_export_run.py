"""A run of the exporter on real Postgres, with a Stripe in memory that fails as it is told, and a clock that is moved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from billing_exporter import ledger, planning
from billing_exporter.exporter import RunReport, run
from billing_exporter.gateway import Account, MeterEvent
from billing_exporter.planning import Line
from billing_exporter.reconciling import reconcile
from billing_exporter.sending import Sender
from billing_exporter.setup import ensure_meters_and_customers, plan_setup
from billing_exporter.truth import TotalsBelow, TruthAway
from metering.export_states import MOVES, Positions, Refused, Unclear
from metering.periods import Period
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.stripe_gateway import FakeGateway, Fault

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NOVEMBER = (2026, 11)
TABLES = (
    "export_transitions, export_ledger, export_heads, export_mappings, stripe_accounts, usage_counters, delta_fences, epochs,"
    " tenants, usage_types, meters, plans, features"
)


class Crash(BaseException):
    """Stands for `kill -9`: nothing catches it."""


@dataclass
class World:
    """Everything round the exporter."""

    settings: Settings
    connection: psycopg.Connection[Any]
    now: datetime = NOW
    stripe: FakeGateway = field(init=False)
    truth: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    """What ClickHouse would say of (tenant, usage type), where that is not what the counters say."""
    reached: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.stripe = FakeGateway(now=lambda: self.now)

    def sql(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        found = self.connection.execute(text, values)
        return found.fetchall() if found.description else []

    def count(self, tenant: str, usage_type: str, day: str, quantity: str) -> None:
        """As the aggregator does: counters and fence in one transaction."""
        with self.connection.transaction():
            self.sql(
                "INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1) ON CONFLICT (tenant_id, usage_type, day)"
                " DO UPDATE SET quantity = usage_counters.quantity + excluded.quantity, events = usage_counters.events + 1",
                tenant,
                usage_type,
                day,
                Decimal(quantity),
            )
            self.sql("UPDATE delta_fences SET next_offset = next_offset + 1, admitted = admitted + 1")

    def totals(self) -> AbstractContextManager[TotalsBelow]:
        """ClickHouse's side: the counters' own figures, but for what `truth` says."""

        def totals_below(positions: Positions, period: Period, tenant_id: str) -> dict[str, Decimal]:
            with postgres.connect(self.settings) as connection:
                rows = connection.execute(
                    "SELECT usage_type, sum(quantity) FROM usage_counters"
                    " WHERE tenant_id = %s AND day >= %s AND day < %s GROUP BY 1",
                    (tenant_id, period.start, period.end),
                ).fetchall()
            counted = {usage_type: Decimal(total) for usage_type, total in rows}
            return counted | {kind: total for (tenant, kind), total in self.truth.items() if tenant == tenant_id}

        return nullcontext(totals_below)

    def sender(self, account: Account) -> Sender:
        return Sender(
            self.settings, self.stripe, account, self.totals, now=lambda: self.now, reached=lambda name: self.reached(name)
        )

    def run(self, month: tuple[int, int] | None = NOVEMBER, *, every: bool = False) -> RunReport:
        return run(self.settings, self.stripe, self.sender, b"key", month=month, every=every, now=lambda: self.now, patience_s=0)

    def reconcile(self) -> list[str]:
        found = reconcile(self.settings, self.stripe, Account("acct_fake", False), now=lambda: self.now)
        return [one.verdict for one in found]

    def plan(self, month: tuple[int, int] = NOVEMBER) -> list[Line]:
        with postgres.connect(self.settings) as connection:
            connection.read_only = True
            account = ledger.known_account(connection, b"key")
            connection.commit()
            lines: list[Line] = []
            for which in planning.rounds(connection, self.now.date(), month, False):
                lines += planning.plan(connection, account, which, self.now, write=False)
            return lines

    def rows(self) -> list[tuple[Any, ...]]:
        return self.sql(
            "SELECT tenant_id, meter, revision, state, value FROM export_ledger ORDER BY tenant_id, meter, period_start, revision"
        )

    def shown(self, tenant: str, meter: str = "units", month: int = 11) -> int | None:
        """What Stripe would bill."""
        meter_id = next(one.id for one in self.stripe.meters() if one.meter == meter)
        start = datetime(2026, month, 1, tzinfo=UTC)
        return self.stripe.summary(meter_id, f"cus_{tenant}", start, datetime(2026, month + 1, 1, tzinfo=UTC))

    def end_leases(self) -> None:
        self.sql("UPDATE export_ledger SET lease_until = clock_timestamp() - interval '1 second' WHERE lease_until IS NOT NULL")


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def world(migrated_postgres: Settings) -> Iterator[World]:
    """Two tenants, one meter for two usage types and another for a third, set up at Stripe."""
    with postgres.connect(migrated_postgres, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES} CASCADE")
        connection.execute("INSERT INTO meters VALUES ('units', 1000000, 'floor', 'last'), ('calls', 1, 'floor', 'last')")
        connection.execute(
            "INSERT INTO usage_types (usage_type, meter) VALUES"
            " ('DEEP', 'units'), ('QUICK', 'units'), ('CALL', 'calls'), ('FREE', NULL)"
        )
        connection.execute("INSERT INTO tenants (tenant_id) VALUES ('a'), ('b')")
        connection.execute(
            "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (1, 't', 'c', 'i', 2, '{0,0}')"
        )
        connection.execute(
            "INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (1, 0, 0, 1), (1, 1, 0, 1)"
        )
        world = World(migrated_postgres, connection)
        ensure_meters_and_customers(migrated_postgres, world.stripe)
        yield world


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
        run(world.settings, world.stripe, sender_of, b"key", month=NOVEMBER, now=lambda: world.now)
    assert world.stripe.calls == []
    assert world.run().ok


def test_a_tenant_without_a_customer_is_told_and_the_others_go_on(world: World) -> None:
    world.sql("UPDATE tenants SET stripe_customer_id = NULL WHERE tenant_id = 'a'")
    for tenant in ("a", "b"):
        world.count(tenant, "DEEP", "2026-11-01", "1")
    report = world.run()
    assert [(line.tenant_id, line.action) for line in report.problems] == [("a", "no_customer")]
    assert report.ok
    assert [row[0] for row in world.rows()] == ["b"]


def test_usage_that_the_catalog_does_not_explain_is_told(world: World) -> None:
    world.count("a", "TYPO", "2026-11-01", "3")
    world.count("nobody", "DEEP", "2026-11-01", "2")
    report = world.run()
    assert {(one.tenant_id, one.usage_type, one.quantity, one.reason) for one in report.unmapped} == {
        ("a", "TYPO", Decimal(3), "unknown_usage_type"),
        ("nobody", "DEEP", Decimal(2), "unknown_tenant"),
    }
    assert world.rows() == []


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


def test_sixteen_digits_and_a_sum_meter_are_held_by_name(world: World) -> None:
    world.sql("INSERT INTO meters VALUES ('added', 1, 'floor', 'sum')")
    world.sql("INSERT INTO usage_types (usage_type, meter) VALUES ('ADDED', 'added')")
    world.count("a", "DEEP", "2026-11-01", "1000000000")
    world.count("b", "ADDED", "2026-11-01", "1")
    report = world.run()
    assert {(line.tenant_id, line.action) for line in report.problems} == {("a", "hold"), ("b", "hold")}
    assert ["too_large" in line.reason or "mode is sum" in line.reason for line in report.problems] == [True, True]
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


def test_a_customer_that_changed_within_a_period_is_left_to_a_person(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "5")
    world.run()
    other = world.stripe.create_customer("other", "")
    world.sql("UPDATE tenants SET stripe_customer_id = %s WHERE tenant_id = 'a'", other.id)
    world.count("a", "DEEP", "2026-11-02", "1")
    report = world.run()
    assert [(line.action, "billed to cus_a" in line.reason) for line in report.problems] == [("hold", True)]


def test_a_summary_that_differs_is_drift_once_it_had_time_to_settle(world: World) -> None:
    world.count("a", "DEEP", "2026-11-01", "5")
    world.run()
    at = NOW + timedelta(seconds=30)
    world.stripe.send(MeterEvent("units", "cus_a", "somebody else", 4, at))
    assert world.reconcile() == ["waiting"]
    world.now += timedelta(hours=1)
    assert world.reconcile() == ["drift"]
    assert world.reconcile() == ["drift"]
    state, reason = world.sql("SELECT state, reason FROM export_ledger")[0]
    assert (state, reason) == ("accepted", "drift: the summary shows 4, expected 5000000")


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
    with pytest.raises(MeterlineExit, match="test key only"):
        ensure_meters_and_customers(world.settings, FakeGateway(livemode=True))
