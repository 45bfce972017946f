"""Requests to bill a period: what can be asked, what they wait for, and an exporter that is killed while it serves them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest

from billing_exporter import ledger
from billing_exporter.requests import serve, wanted_months
from control_plane.billing import service
from control_plane.refusals import Refusal
from control_plane.unit import Units
from metering.billing import MOVES
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.billing_world import ACCOUNT, ACTOR, DECEMBER, ask, ends, moves, open_billing_world, status, worker
from tests.fakes.export_world import World


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def world(migrated_postgres: Settings) -> Iterator[World]:
    with open_billing_world(migrated_postgres) as opened:
        yield opened


@pytest.fixture
def units(migrated_postgres: Settings) -> Iterator[Units]:
    made = Units(migrated_postgres)
    yield made
    made.close()


def test_an_exporter_that_is_killed_between_two_arrows_leaves_each_of_them_taken_once(world: World, units: Units) -> None:
    assert world.run((2026, 11)).ok
    world.reconcile()
    ask(units)
    # Before and after the commit of each arrow, each process going on where the one before died.
    for point in ("before_commit", "committed") * 3:
        assert ends(worker(world.settings, "exporter", f"billing.{point}:1")) == -signal.SIGKILL
    assert ends(worker(world.settings, "exporter")) == 0
    assert status(units).state == "confirmed"
    assert moves(world) == [("requested", "closed"), ("closed", "exported"), ("exported", "confirmed")]
    assert world.sql("SELECT count(*), min(state) FROM period_closes") == [(1, "closed")]
    assert len(world.stripe.stored) == 1


def test_a_request_says_what_it_waits_for(world: World, units: Units) -> None:
    world.sql("DELETE FROM freshness_samples")
    ask(units)
    with ledger.connect(world.settings) as connection:
        assert wanted_months(connection) == [(2026, 11)]
        serve(connection, ACCOUNT, world.now)
        assert status(units).reason == "waits for the close: it is not due yet"
        world.fresh(world.now)
        world.truth["a", "DEEP"] = Decimal(1)
        world.run((2026, 11))
        serve(connection, ACCOUNT, world.now)
        assert "waits for the close: DEEP: clickhouse 1, counters 1.5" in (status(units).reason or "")
        world.truth.clear()
        world.sql("UPDATE tenants SET stripe_customer_id = NULL WHERE tenant_id = 'a'")
        world.run((2026, 11))
        serve(connection, ACCOUNT, world.now)
        assert status(units).state == "closed"
        assert "run `meterline stripe setup`" in (status(units).reason or "")


@pytest.mark.parametrize(
    ("app_id", "period", "code"),
    [
        ("app_b", "2026-11", "not_found"),
        ("app_a", "2026-13", "bad_period"),
        ("app_a", "", "bad_period"),
        ("app_a", "2026-12", "period_not_over"),
    ],
)
def test_what_cannot_be_billed_is_refused_by_name(world: World, units: Units, app_id: str, period: str, code: str) -> None:
    with units.begin(ACTOR) as unit, pytest.raises(Refusal) as refusal:
        service.request_billing(unit, app_id, period, DECEMBER + timedelta(days=2))
    assert refusal.value.code == code
    with units.begin(ACTOR) as unit, pytest.raises(Refusal) as refusal:
        service.update_status(unit, "app_a", "2026-11", "paid")
    assert refusal.value.code == "bad_status"
    with units.begin(ACTOR) as unit, pytest.raises(Refusal) as refusal:
        service.billing_status(unit, "app_a", "2026-11")
    assert refusal.value.code == "no_billing_request"


def test_the_database_allows_the_arrows_of_the_table_and_no_other(world: World, units: Units) -> None:
    ask(units)
    states = list(MOVES)
    allowed = set()
    for was in states:
        for to in states:
            world.sql("TRUNCATE billing_request_moves")
            world.sql("ALTER TABLE billing_requests DISABLE TRIGGER billing_requests_move")
            world.sql("UPDATE billing_requests SET state = %s", was)
            world.sql("ALTER TABLE billing_requests ENABLE TRIGGER billing_requests_move")
            try:
                world.sql("UPDATE billing_requests SET state = %s", to)
                allowed.add((was, to))
            except psycopg.errors.CheckViolation:
                continue
    assert allowed == {(was, to) for was in states for to in (*MOVES[was], was)}
