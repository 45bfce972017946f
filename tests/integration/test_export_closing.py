"""Closing periods on real Postgres: what a period bills is fixed once, and what comes late is billed in the next one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from billing_exporter import ledger
from billing_exporter.closes import closes_of
from billing_exporter.closing import close_due
from billing_exporter.gateway import Account
from billing_exporter.planning import Line
from metering.export_states import Unclear
from runtime import postgres
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.export_world import World, open_world

ACCOUNT = Account("acct_fake", False)
GRACE = timedelta(minutes=30)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def world(migrated_postgres: Settings) -> Iterator[World]:
    with open_world(migrated_postgres) as opened:
        opened.now = DECEMBER + timedelta(days=2)
        yield opened


def closed(world: World, tenant: str = "a") -> list[tuple[date, str, dict[str, Decimal]]]:
    with postgres.connect(world.settings) as connection:
        return [(start, close.state, close.totals) for start, close in closes_of(connection, tenant).items()]


def line(world: World, month: int, tenant: str = "a", meter: str = "units") -> Line:
    (found,) = [one for one in world.plan((2026, month)) if (one.tenant_id, one.meter) == (tenant, meter)]
    return found


def test_a_period_is_closed_once_everything_until_its_grace_is_counted_and_not_before(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1.5")
    world.fresh(DECEMBER + GRACE - timedelta(milliseconds=1))
    assert world.run().closed == 0
    world.fresh(DECEMBER + GRACE)
    assert world.run().closed == 1
    assert closed(world) == [(date(2026, 11, 1), "closed", {"DEEP": Decimal("1.5")})]
    assert world.shown("a") == 1_500_000


def test_what_comes_late_is_carried_forward_and_the_closed_total_stays(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1.5")
    world.fresh(world.now)
    assert world.run().ok
    world.count("a", "DEEP", "2026-11-30", "0.25")
    world.count("a", "DEEP", "2026-12-01", "2")
    assert world.run((2026, 12)).ok
    assert world.run().ok
    assert (world.shown("a"), world.shown("a", month=12)) == (1_500_000, 2_250_000)
    december = line(world, 12)
    assert (december.total, december.late) == (Decimal("2.25"), Decimal("0.25"))
    assert line(world, 11).total == Decimal("1.5")


def test_over_all_periods_the_bills_add_up_to_everything_that_was_ever_used(world: World) -> None:
    world.now = datetime(2027, 2, 10, tzinfo=UTC)
    days = ["2026-11-03", "2026-12-30", "2026-11-20", "2027-01-02", "2026-12-31", "2026-11-01"]
    ends = [datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)]
    billed = []
    for number, end in enumerate(ends):
        for day in days[number * 2 : number * 2 + 2]:
            world.count("a", "DEEP", day, "1.000001")
        world.fresh(end + GRACE)
        with postgres.connect(world.settings) as connection:
            assert close_due(connection, ACCOUNT, world.totals, world.now, GRACE).closed == 1
        totals = [close[2].get("DEEP", Decimal(0)) for close in closed(world)]
        billed.append(totals[-1] - (totals[-2] if len(totals) > 1 else 0))
    assert billed == [Decimal("1.000001"), Decimal("2.000002"), Decimal("3.000003")]


def test_periods_that_were_missed_are_closed_one_after_the_other(world: World) -> None:
    world.now = datetime(2027, 3, 10, tzinfo=UTC)
    world.count("a", "DEEP", "2026-11-03", "1")
    world.count("b", "CALL", "2027-01-15", "2")
    world.fresh(world.now)
    assert world.run(None).closed == 4 + 2
    assert [start for start, _, _ in closed(world)] == [date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1), date(2027, 2, 1)]
    assert [start for start, _, _ in closed(world, "b")] == [date(2027, 1, 1), date(2027, 2, 1)]


def test_a_tenant_whose_counters_differ_from_clickhouse_is_held_and_the_others_are_closed(world: World) -> None:
    for tenant in ("a", "b"):
        world.count(tenant, "DEEP", "2026-11-03", "1")
    world.fresh(world.now)
    world.truth["a", "DEEP"] = Decimal("0.999999")
    report = world.run()
    assert list(report.refused) == ["a"]
    assert "clickhouse 0.999999, counters 1" in report.refused["a"]
    assert not report.ok
    assert [state for _, state, _ in closed(world)] == ["refused"]
    assert [state for _, state, _ in closed(world, "b")] == ["closed"]
    assert (world.shown("a"), world.shown("b")) == (None, 1_000_000)
    assert line(world, 11).action == "hold"
    world.truth.clear()
    assert world.run().ok
    assert (closed(world)[0][1], world.shown("a")) == ("closed", 1_000_000)


def test_while_a_period_is_being_closed_no_revision_is_planned_that_could_overtake_it(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    world.fresh(world.now)

    class Dies(Exception):
        pass

    def crash(*_: object) -> Any:
        raise Dies

    with postgres.connect(world.settings) as connection, pytest.raises(Dies):
        close_due(connection, ACCOUNT, lambda: nullcontext(crash), world.now, GRACE)
    assert [state for _, state, _ in closed(world)] == ["copied"]
    world.count("a", "DEEP", "2026-11-30", "5")
    assert (line(world, 11).action, line(world, 11).reason) == ("wait", "it is being closed")
    # The next run copies anew: the late one is in time for that.
    assert world.run().ok
    assert closed(world) == [(date(2026, 11, 1), "closed", {"DEEP": Decimal(6)})]


def test_a_fraction_of_a_unit_passes_to_the_next_period_and_is_never_lost(world: World) -> None:
    world.count("a", "CALL", "2026-11-03", "0.6")
    world.count("a", "CALL", "2026-12-01", "0.6")
    world.fresh(world.now)
    assert world.run().ok
    assert world.run((2026, 12)).ok
    assert (world.shown("a", "calls") or 0, world.shown("a", "calls", month=12)) == (0, 1)
    assert [remainder for (remainder,) in world.sql("SELECT remainder FROM export_carries")] == [Decimal("0.6")]


def test_a_period_below_zero_bills_nothing_and_takes_it_off_the_next_one(world: World) -> None:
    world.count("a", "CALL", "2026-11-03", "3")
    world.count("a", "CALL", "2026-11-04", "-5")
    world.count("a", "CALL", "2026-12-01", "10")
    world.fresh(world.now)
    assert world.run().ok
    assert world.run((2026, 12)).ok
    assert (world.shown("a", "calls"), world.shown("a", "calls", month=12)) == (0, 8)


def test_where_an_anchor_day_is_moved_no_day_is_left_out_or_billed_twice(world: World) -> None:
    world.now = datetime(2026, 12, 20, tzinfo=UTC)
    world.sql("UPDATE tenants SET anchor_day = 1")
    world.count("a", "DEEP", "2026-11-03", "1")
    world.fresh(datetime(2026, 12, 2, tzinfo=UTC))
    assert world.run(None).closed == 1
    world.sql("UPDATE tenants SET anchor_day = 15")
    world.count("a", "DEEP", "2026-12-10", "2")
    world.count("a", "DEEP", "2026-12-16", "4")
    world.fresh(world.now)
    assert world.run(None).closed == 1
    assert [(start, totals["DEEP"]) for start, _, totals in closed(world)] == [
        (date(2026, 11, 1), Decimal(1)),
        (date(2026, 12, 1), Decimal(3)),
    ]
    running = [one for one in world.plan((2026, 12)) if one.tenant_id == "a"]
    assert [(one.period.start, one.total) for one in running] == [(date(2026, 12, 15), Decimal(4))]


def test_the_database_refuses_to_change_a_closed_period_or_one_that_does_not_follow(world: World) -> None:
    world.count("a", "CALL", "2026-11-03", "0.5")
    world.count("a", "DEEP", "2026-11-03", "1")
    world.fresh(world.now)
    assert world.run().ok
    for statement in (
        'UPDATE period_closes SET totals = \'{"DEEP": "2"}\'',
        "DELETE FROM period_closes",
        "UPDATE period_closes SET state = 'refused'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match="is closed"):
            world.sql(statement)
    insert = (
        "INSERT INTO period_closes (tenant_id, period_start, period_end, state, positions, totals)"
        " VALUES ('a', %s, '2027-02-01', 'copied', %s, '{}')"
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="does not follow"):
        world.sql(insert, "2027-01-01", '{"1:0": 9, "1:1": 9}')
    with pytest.raises(psycopg.errors.CheckViolation, match="lie behind"):
        world.sql(insert, "2026-12-01", '{"1:0": 0, "1:1": 9}')
    with pytest.raises(psycopg.errors.CheckViolation, match="may not change"):
        world.sql("UPDATE export_carries SET remainder = 7")


def test_a_meter_of_sums_is_sent_what_was_added_and_takes_back_what_was_corrected(world: World) -> None:
    world.now = datetime(2026, 11, 21, tzinfo=UTC)
    world.sql("INSERT INTO meters VALUES ('added', 1, 'floor', 'sum')")
    world.sql("INSERT INTO usage_types (usage_type, meter) VALUES ('ADDED', 'added')")
    world.stripe.create_meter("added", "added", "sum")
    for quantity in ("5", "2.5", "0.5", "-3"):
        world.count("a", "ADDED", "2026-11-03", quantity)
        assert world.run().ok
        world.now += timedelta(hours=1)
    assert [event.value for event in world.stripe.calls] == [5, 2, 1, -3]
    assert world.shown("a", "added") == 5
    assert world.reconcile() == ["equal"]


def test_what_may_have_arrived_is_never_sent_again_to_a_meter_of_sums(world: World) -> None:
    world.now = datetime(2026, 11, 21, tzinfo=UTC)
    world.sql("INSERT INTO meters VALUES ('added', 1, 'floor', 'sum')")
    world.sql("INSERT INTO usage_types (usage_type, meter) VALUES ('ADDED', 'added')")
    world.stripe.create_meter("added", "added", "sum")
    world.count("a", "ADDED", "2026-11-03", "5")
    world.stripe.fault = lambda _: Unclear("no answer")
    world.run()
    world.stripe.fault = lambda _: "none"
    world.now += timedelta(days=2)
    world.run()
    world.now += timedelta(hours=2)
    world.run()
    assert [state for _, _, _, state, _ in world.rows()] == ["manual"]
    assert len(world.stripe.stored) == 0
    assert world.run().open_rows[0].reason == "the summary shows 0: it seems never to have arrived; a second sending could add up"


def test_two_that_close_at_once_make_one_close(world: World) -> None:
    for number in range(40):
        world.sql("INSERT INTO tenants (tenant_id) VALUES (%s)", f"t{number:02}")
        world.count(f"t{number:02}", "DEEP", "2026-11-03", "1")
    world.fresh(world.now)
    with postgres.connect(world.settings) as first, postgres.connect(world.settings) as second, world.totals() as truth:

        def between(window: Any, tenants: Any) -> Any:
            close_due(second, ACCOUNT, world.totals, world.now, GRACE)
            return truth(window, tenants)

        close_due(first, ACCOUNT, lambda: nullcontext(between), world.now, GRACE)
    assert {state for (state,) in world.sql("SELECT state FROM period_closes")} == {"closed"}
    assert world.sql("SELECT count(*) FROM period_closes") == [(40,)]
    with ledger.connect(world.settings) as connection:
        assert all(close.totals == {"DEEP": Decimal(1)} for close in closes_of(connection, "t07").values())
