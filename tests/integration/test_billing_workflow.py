"""Billing on request: the exporter closes, exports and confirms, the workflow ends it when the invoice is paid. Once, whatever is
killed between any two steps, on Postgres and on Temporal alike."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest

from control_plane.billing import service
from control_plane.billing.runners import Runner
from control_plane.refusals import Refusal
from control_plane.unit import Units
from deploy.embedded.temporal import TemporalTestServer
from runtime.settings import Settings
from store.migrate import migrate_postgres
from tests.fakes.billing_worker import runner_of
from tests.fakes.billing_world import (
    ACTOR,
    ALL_MOVES,
    ask,
    ends,
    export,
    invoice,
    moves,
    open_billing_world,
    status,
    until,
    worker,
)
from tests.fakes.export_world import World


@pytest.fixture(scope="module")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalTestServer]:
    server = TemporalTestServer(tmp_path_factory.mktemp("temporal"), log=lambda line: None)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module", params=["postgres", "temporal"])
def runner(request: pytest.FixtureRequest) -> str:
    """Which one: both keep the same promises."""
    return str(request.param)


@pytest.fixture(scope="module")
def with_temporal(settings: Settings, request: pytest.FixtureRequest, runner: str) -> Settings:
    migrate_postgres(settings)
    if runner == "postgres":
        return settings
    return settings.model_copy(update={"temporal_address": request.getfixturevalue("temporal").address})


@pytest.fixture
def world(with_temporal: Settings) -> Iterator[World]:
    with open_billing_world(with_temporal) as opened:
        yield opened


@pytest.fixture
def units(with_temporal: Settings) -> Iterator[Units]:
    made = Units(with_temporal)
    yield made
    made.close()


class Running:
    """A runner in a thread of this process."""

    def __init__(self, runner: Runner) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=runner.run, args=(self._stop,))

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_a_request_is_closed_exported_confirmed_paid_and_completed_once(world: World, units: Units, runner: str) -> None:
    asked = ask(units)
    assert (asked.state, asked.usage, asked.period_end) == ("requested", {"DEEP": Decimal("1.5")}, date(2026, 12, 1))
    assert [ask(units), ask(units)] == [asked, asked]
    # Two copies of it, as two processes of the control plane have them.
    with Running(runner_of(runner, world.settings, units)), Running(runner_of(runner, world.settings, units)):
        export(world, confirm=False)
        assert (status(units).state, status(units).reason) == ("exported", "waits until Stripe shows the total of units")
        export(world)
        until(lambda: status(units).reason == "waits for the invoice of the period", lambda: status(units))
        invoice(world, "open")
        until(lambda: status(units).reason == "the invoice is open", lambda: status(units))
        invoice(world, "paid")
        until(lambda: status(units).state == "completed", lambda: status(units))
    assert moves(world) == ALL_MOVES
    assert status(units).invoice_id == "in_1"
    assert world.sql("SELECT what, count(*) FROM audit WHERE what LIKE 'billing.%%' GROUP BY 1 ORDER BY 1") == [
        ("billing.completed", 1),
        ("billing.requested", 1),
    ]
    assert world.sql("SELECT count(*) FROM period_closes") == [(1,)]
    assert len(world.stripe.stored) == 1
    assert ask(units).state == "completed"


def test_whatever_is_killed_between_two_steps_there_is_one_close_one_export_and_one_status(
    world: World, units: Units, runner: str
) -> None:
    ask(units)
    export(world)
    invoice(world, "paid")
    # Before and after the commit of each step, each process going on where the one before died.
    for point in ("before_commit", "committed") * 2:
        assert ends(worker(world.settings, runner, f"billing.{point}:1")) == -signal.SIGKILL
    assert status(units).state == "completed"
    with Running(runner_of(runner, world.settings, units)):
        pass
    assert moves(world) == ALL_MOVES
    assert world.sql("SELECT count(*) FROM audit WHERE what = 'billing.completed'") == [(1,)]
    assert world.sql("SELECT count(*), min(state) FROM period_closes") == [(1, "closed")]
    assert len(world.stripe.stored) == 1


def test_an_invoice_that_is_not_collected_waits_for_a_person_or_for_its_payment(world: World, units: Units, runner: str) -> None:
    ask(units)
    export(world)
    with units.begin(ACTOR) as unit, pytest.raises(Refusal, match="it completes once its invoice is paid"):
        service.update_status(unit, "app_a", "2026-11", "completed")
    invoice(world, "uncollectible")
    with Running(runner_of(runner, world.settings, units)):
        until(lambda: status(units).state == "uncollected", lambda: status(units))
        assert "a person completes it" in (status(units).reason or "")
        with units.begin(ACTOR) as unit:
            done = service.update_status(unit, "app_a", "2026-11", "completed")
        with units.begin(ACTOR) as unit:
            assert service.update_status(unit, "app_a", "2026-11", "completed") == done
    assert done.state == "completed"
    assert moves(world)[-2:] == [("confirmed", "uncollected"), ("uncollected", "completed")]
    assert world.sql("SELECT who FROM audit WHERE what = 'billing.completed'") == [("test",)]
