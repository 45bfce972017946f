"""Final invoices on real Postgres: each closes its period at the revision that it billed, and nothing of the rest is lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from billing_exporter import by_hand, ledger
from billing_exporter.gateway import Account, FinalUsage
from billing_exporter.proving import check_billed
from metering.export_states import Unclear
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.export_world import World, open_world

ACCOUNT = Account("acct_fake", False)
NOVEMBER, DECEMBER, JANUARY = (datetime(2026 + month // 13, (month - 1) % 12 + 1, 1, tzinfo=UTC) for month in (11, 12, 13))
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def world(migrated_postgres: Settings) -> Iterator[World]:
    with open_world(migrated_postgres) as opened:
        opened.now = DECEMBER - timedelta(days=2)
        yield opened


def states(world: World, month: int = 11) -> list[tuple[str, int]]:
    rows = world.sql(
        "SELECT state, value FROM export_ledger WHERE period_start = %s ORDER BY tenant_id, meter, revision", f"2026-{month}-01"
    )
    return [(state, value) for state, value in rows]


def invoice(world: World, meter: str = "units", quantity: int | None = None) -> FinalUsage:
    """November's invoice of tenant `a` becomes final now; with another quantity than the meter shows where one is given."""
    made = world.stripe.finalize(meter, "cus_a", NOVEMBER, DECEMBER)
    if quantity is not None:
        world.stripe.finals[-1] = made = FinalUsage(
            made.invoice_id, made.finalized_at, made.customer_id, meter, NOVEMBER, DECEMBER, quantity
        )
    return made


def resolve(world: World, how: by_hand.How, state: str = "manual") -> str:
    ((number,),) = world.sql("SELECT id FROM export_ledger WHERE state = %s", state)
    with ledger.connect(world.settings) as connection:
        return by_hand.resolve(connection, ACCOUNT, number, how, "seen in the dashboard", "ada", world.now)[1]


def proved(world: World) -> None:
    world.now += timedelta(hours=2)
    check = check_billed(world.settings, world.stripe, ACCOUNT, world.totals, lambda: world.now)
    assert check.ok, check.findings


def test_an_invoice_that_was_final_before_the_close_bills_its_revision_and_the_rest_goes_into_the_next_period(
    world: World,
) -> None:
    world.count("a", "DEEP", "2026-11-03", "1.5")
    assert world.run().ok
    world.now = DECEMBER + MINUTE
    invoice(world)
    # The counters go on: these are in time for our close, and too late for the invoice.
    world.count("a", "QUICK", "2026-11-30", "0.25")
    world.count("a", "DEEP", "2026-12-01", "2")
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    report = world.run()
    assert (report.ok, report.closed) == (True, 1)
    assert states(world) == [("closed", 1_500_000)]
    assert world.run((2026, 12)).ok
    assert states(world) == [("carry_forward", 1_500_000)]
    assert states(world, 12) == [("accepted", 2_250_000)]
    ((totals, finalized),) = world.sql("SELECT totals, finalized FROM period_closes")
    assert {usage_type: Decimal(total) for usage_type, total in totals.items()} == {"DEEP": Decimal("1.5"), "QUICK": Decimal(0)}
    assert finalized == {"DEEP": "in_0", "QUICK": "in_0"}
    proved(world)
    # And the period after it continues from what was billed.
    world.now = JANUARY + timedelta(hours=1)
    world.count("a", "QUICK", "2026-11-05", "1")
    world.fresh(world.now)
    assert world.run(None).ok
    assert world.shown("a", month=12) == 3_250_000
    proved(world)


def test_a_revision_that_came_after_the_invoice_was_final_is_not_taken_for_billed(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    assert world.run().ok
    world.now = DECEMBER + MINUTE
    invoice(world)
    world.count("a", "DEEP", "2026-11-30", "4")
    world.stripe.finals, kept = [], world.stripe.finals
    assert world.run().ok  # nobody knew of the invoice yet
    assert states(world) == [("superseded", 1_000_000), ("accepted", 5_000_000)]
    world.stripe.finals = kept
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    assert world.run(None).ok
    assert states(world) == [("carry_forward", 1_000_000), ("superseded", 5_000_000)]
    assert world.shown("a", month=12) == 4_000_000
    proved(world)


def test_a_period_of_which_nothing_had_come_when_its_invoice_was_final_is_billed_with_the_next_one(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1.25")
    world.count("a", "CALL", "2026-11-03", "0.5")
    world.now = DECEMBER + MINUTE
    invoice(world)
    invoice(world, "calls")
    world.count("a", "CALL", "2026-12-01", "0.5")
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    assert world.run(None).ok
    assert states(world) == []
    assert (world.shown("a", month=12), world.shown("a", "calls", month=12)) == (1_250_000, 1)
    proved(world)


def test_what_an_invoice_cuts_off_keeps_its_fractions(world: World) -> None:
    world.count("a", "CALL", "2026-11-03", "2.75")
    assert world.run().ok
    world.now = DECEMBER + MINUTE
    invoice(world, "calls")
    world.count("a", "CALL", "2026-11-30", "0.5")
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    assert world.run(None).ok
    assert states(world) == [("carry_forward", 2)]
    assert world.sql("SELECT remainder FROM export_carries") == [(Decimal("0.75"),)]
    assert world.shown("a", "calls", month=12) == 1
    assert world.sql("SELECT exact_total, carried, remainder FROM export_ledger WHERE period_start = '2026-12-01'") == [
        (Decimal("0.5"), Decimal("0.75"), Decimal("0.25"))
    ]


def test_a_confirmed_total_is_read_until_its_invoice_is_final_and_then_rests(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    assert world.run().ok
    assert world.reconcile() == ["equal"]
    assert world.reconcile() == ["equal"]
    assert states(world) == [("confirmed", 1_000_000)]
    invoice(world)
    assert world.run().ok
    assert states(world) == [("closed", 1_000_000)]
    assert world.reconcile() == []
    reasons = world.sql("SELECT reason FROM export_transitions WHERE to_state = 'closed'")
    assert reasons == [("billed by in_0",)]


def test_an_invoice_settles_what_had_no_clear_end(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    world.stripe.fault = lambda _: "cut"
    world.run()
    assert states(world) == [("retry_wait", 1_000_000)]
    world.stripe.fault = lambda _: Unclear("500")
    world.now = DECEMBER + MINUTE
    invoice(world)
    world.fresh(DECEMBER + timedelta(hours=1))
    world.run()
    assert states(world) == [("closed", 1_000_000)]
    moves = world.sql("SELECT to_state FROM export_transitions ORDER BY id DESC LIMIT 3")
    assert moves == [("closed",), ("accepted",), ("ambiguous",)]


def test_an_event_that_stripe_took_and_never_counted_is_billed_with_the_next_period(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    assert world.run().ok
    world.stripe.stored.clear()
    world.now = DECEMBER + MINUTE
    invoice(world)
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    assert world.run(None).ok
    assert (states(world), world.shown("a", month=12)) == ([("superseded", 1_000_000)], 1_000_000)


def test_an_invoice_that_bills_what_nobody_sent_is_for_a_person_and_holds_nobody_up(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    world.count("b", "DEEP", "2026-11-03", "1")
    assert world.run().ok
    world.now = DECEMBER + MINUTE
    invoice(world, quantity=999)
    world.now = DECEMBER + timedelta(hours=1)
    world.count("a", "DEEP", "2026-12-01", "3")
    world.fresh(world.now)
    report = world.run(None)
    assert not report.ok
    assert report.closed == 2
    assert "billed 999, the ledger says 1000000" in report.disagree[0]
    assert [(row.tenant_id, row.state) for row in report.open_rows] == [("a", "manual")]
    assert world.shown("a", month=12) == 3_000_000
    assert resolve(world, "settled") == "closed"
    assert world.run(None).ok
    assert world.sql("SELECT actor, reason FROM export_transitions WHERE actor IS NOT NULL") == [
        ("ada", "settled, says ada: seen in the dashboard")
    ]


def test_an_invoice_that_was_final_before_our_close_counted_more_is_for_a_person(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    assert world.run().ok
    world.now = DECEMBER + MINUTE
    final = invoice(world)
    world.stripe.finals.clear()
    world.count("a", "DEEP", "2026-11-30", "4")
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    assert world.run().ok
    world.stripe.finals.append(final)
    report = world.run()
    assert [(row.state, row.value) for row in report.open_rows] == [("manual", 5_000_000)]
    assert "closed at 5" in (report.open_rows[0].reason or "")
    assert "bill the difference by hand" in (report.open_rows[0].reason or "")


def test_a_meter_of_sums_is_closed_at_what_its_invoice_adds_up_to(world: World) -> None:
    world.sql("INSERT INTO meters VALUES ('added', 1, 'floor', 'sum')")
    world.sql("INSERT INTO usage_types (usage_type, meter) VALUES ('ADDED', 'added')")
    world.stripe.create_meter("added", "added", "sum")
    for quantity in ("5", "2", "-3"):
        world.count("a", "ADDED", "2026-11-03", quantity)
        assert world.run().ok
    assert world.reconcile() == ["equal"]
    assert states(world) == [("confirmed", 5), ("confirmed", 2), ("confirmed", -3)]
    world.now = DECEMBER + MINUTE
    invoice(world, "added")
    world.count("a", "ADDED", "2026-11-30", "7")
    world.now = DECEMBER + timedelta(hours=1)
    world.fresh(world.now)
    assert world.run(None).ok
    assert {state for state, _ in states(world)} == {"carry_forward"}
    assert world.shown("a", "added", month=12) == 7
    proved(world)


def test_a_confirmed_total_without_an_invoice_is_closed_when_stripe_takes_nothing_more_of_its_period(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    assert world.run().ok
    assert world.reconcile() == ["equal"]
    world.fresh(DECEMBER + timedelta(hours=1))
    world.now = DECEMBER + timedelta(days=36)
    assert world.run().ok
    assert states(world) == [("confirmed", 1_000_000)]
    world.now = DECEMBER + timedelta(days=38)
    assert world.run().ok
    assert states(world) == [("closed", 1_000_000)]


def test_a_period_settled_by_hand_ends_there_and_what_came_later_is_in_the_next_one(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    world.now = DECEMBER + timedelta(days=35)
    assert [row.state for row in world.run().open_rows] == ["manual"]
    with pytest.raises(by_hand.Unfit, match="only what is `manual`"):
        resolve(world, "lost", "manual") and resolve(world, "lost", "superseded")
    assert [row.state for row in world.run().open_rows] == ["manual"]
    assert resolve(world, "settled") == "closed"
    world.count("a", "DEEP", "2026-11-04", "0.5")
    world.count("a", "DEEP", "2026-12-20", "2")
    world.fresh(DECEMBER + timedelta(days=1))
    assert world.run((2026, 12)).ok
    assert (states(world)[-1], world.shown("a", month=12)) == (("carry_forward", 1_000_000), 2_500_000)


def test_what_was_refused_is_tried_again_when_a_person_says_so(world: World) -> None:
    for tenant in ("a", "b"):
        world.count(tenant, "DEEP", "2026-11-03", "1")
    world.stripe.deactivate("units")
    assert [row.state for row in world.run().open_rows] == ["rejected", "rejected"]
    world.stripe.reactivate_meter(next(one.id for one in world.stripe.meters() if one.meter == "units"))
    assert not world.run().ok
    with ledger.connect(world.settings) as connection:
        done = by_hand.retry(connection, ACCOUNT, "ada", world.now, tenant="a")
    assert ([row.tenant_id for row in done.refused], done.waiting) == (["a"], [])
    world.run()
    assert (world.shown("a"), world.shown("b")) == (1_000_000, None)


def test_every_transition_is_on_record_whoever_makes_it_and_stays_there(world: World) -> None:
    world.count("a", "DEEP", "2026-11-03", "1")
    assert world.run().ok
    world.sql("UPDATE export_ledger SET state = 'manual', reason = 'by a hand in the database'")
    assert world.sql("SELECT from_state, to_state, reason FROM export_transitions ORDER BY id DESC LIMIT 1") == [
        ("accepted", "manual", "by a hand in the database")
    ]
    for statement in ("DELETE FROM export_transitions", "UPDATE export_transitions SET to_state = 'accepted'"):
        with pytest.raises(psycopg.errors.CheckViolation, match="stays on record"):
            world.sql(statement)
    world.now = DECEMBER + MINUTE
    invoice(world)
    world.run()
    with pytest.raises(psycopg.errors.CheckViolation, match="is final"):
        world.sql("UPDATE export_finals SET told = 7")
