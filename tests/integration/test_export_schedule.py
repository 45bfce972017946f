"""The exporter's schedule: at its times, caught up, one copy at a time, and alive whatever fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from billing_exporter.gateway import GatewayAway
from billing_exporter.planning import rounds
from billing_exporter.schedule import Cron, Ended, Schedule, Turn
from deploy.embedded.processes import free_port
from runtime import postgres
from runtime.settings import Settings, SettingsError
from store.migrate import migrate_clickhouse, migrate_postgres
from tests.fakes.export_world import World, open_world
from tests.fakes.local_stripe_server import LocalStripeServer

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def migrated_postgres(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings.model_copy(update={"export_cron": "5 * * * *", "export_jitter_s": 0.0})


@pytest.fixture
def world(migrated_postgres: Settings) -> Iterator[World]:
    with open_world(migrated_postgres) as opened:
        yield opened


class Turns:
    """Work that keeps what it was asked for."""

    def __init__(self) -> None:
        self.done: list[Turn] = []
        self.fails = 0

    def __call__(self, turn: Turn) -> Ended:
        if self.fails:
            self.fails -= 1
            raise GatewayAway("no answer")
        self.done.append(turn)
        return Ended("done", "")


def schedule(world: World, work: Any) -> Schedule:
    return Schedule(world.settings, work, threading.Event(), now=lambda: world.now)


def test_each_turn_is_run_once_and_the_wait_ends_at_the_next_one(world: World) -> None:
    turns = Turns()
    running = schedule(world, turns)
    assert running.turn() <= 60
    assert running.turn() <= 60
    world.now += 4 * MINUTE  # 12:04
    running.turn()
    assert [turn.due_at.hour * 60 + turn.due_at.minute for turn in turns.done] == [11 * 60 + 5]
    assert running.turn() == pytest.approx(60, abs=1)
    world.now += MINUTE
    running.turn()
    assert [turn.due_at.minute for turn in turns.done] == [5, 5]
    assert world.sql("SELECT outcome, count(*) FROM export_runs GROUP BY 1") == [("done", 2)]


def test_turns_that_were_missed_are_caught_up_by_one_that_plans_as_far_back(world: World) -> None:
    turns = Turns()
    schedule(world, turns).turn()
    world.now += timedelta(days=75)
    schedule(world, turns).turn()
    assert [turn.since for turn in turns.done] == [None, date(2026, 11, 21)]
    with postgres.connect(world.settings) as connection:
        found = [which(1) for which in rounds(connection, date(2027, 2, 4), None, False, date(2026, 11, 21))]
    months = ["2026-10-01", "2026-11-01", "2026-12-01", "2027-01-01", "2027-02-01"]
    assert [period.start.isoformat() for period in found] == months


def test_a_failed_run_is_told_and_tried_again_sooner_than_the_next_turn(world: World) -> None:
    turns = Turns()
    turns.fails = 2
    running = schedule(world, turns)
    waits = [running.turn(), running.turn()]
    assert waits[0] < waits[1] <= 300
    assert "no answer" in (running.problem or "")
    running.turn()
    assert (running.problem, len(turns.done)) == (None, 1)


def test_a_copy_that_dies_in_a_run_leaves_the_turn_to_the_next_one(world: World) -> None:
    class Killed(BaseException):
        pass

    def dies(_: Turn) -> Ended:
        raise Killed

    with pytest.raises(Killed):
        schedule(world, dies).turn()
    assert world.sql("SELECT outcome FROM export_runs") == [(None,)]
    turns = Turns()
    schedule(world, turns).turn()
    assert len(turns.done) == 1


def test_of_two_copies_one_runs_and_the_other_waits_and_does_not_repeat_it(world: World) -> None:
    begun, go_on, turns = threading.Event(), threading.Event(), Turns()

    def slow(turn: Turn) -> Ended:
        begun.set()
        go_on.wait(30)
        return turns(turn)

    first = threading.Thread(target=schedule(world, slow).turn)
    first.start()
    assert begun.wait(30)
    other = schedule(world, turns)
    assert other.turn() == 5.0
    go_on.set()
    first.join()
    other.turn()
    assert len(turns.done) == 1


def test_a_run_begins_up_to_the_jitter_later_and_no_more(world: World) -> None:
    world.settings = world.settings.model_copy(update={"export_jitter_s": 600.0})
    turns = Turns()
    for _ in range(8):
        schedule(world, turns).turn()
    running = schedule(world, turns)
    world.now = datetime(2026, 11, 21, 13, 5, tzinfo=UTC)
    assert 0 <= running.turn() <= 60
    world.now += 10 * MINUTE
    running.turn()
    assert turns.done[-1].due_at == datetime(2026, 11, 21, 13, 5, tzinfo=UTC)


@pytest.mark.parametrize("expression", ["", "* * *", "61 * * * *", "soon", "0 0 31 2 *"])
def test_a_schedule_that_is_none_is_refused_with_the_setting_that_says_it(expression: str) -> None:
    with pytest.raises(SettingsError, match="METERLINE_EXPORT_CRON"):
        Cron(expression)


def test_the_process_runs_closes_sends_compares_tells_how_it_is_and_stops_when_asked(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    migrate_clickhouse(world.settings)
    port = free_port()
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "export", "schedule"],
            env={
                "PATH": os.environ["PATH"],
                "METERLINE_POSTGRES_URL": world.settings.postgres_url.get_secret_value(),
                "METERLINE_CLICKHOUSE_URL": world.settings.clickhouse_url,
                "METERLINE_CLICKHOUSE_USER": world.settings.clickhouse_user,
                "METERLINE_CLICKHOUSE_PASSWORD": world.settings.clickhouse_password.get_secret_value(),
                "METERLINE_STRIPE_SECRET_KEY": server.key,
                "METERLINE_STRIPE_API_BASE": server.url,
                "METERLINE_METRICS_PORT": str(port),
                "METERLINE_LOG_FORMAT": "json",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "a scheduled run has ended" in line:
                    break
            else:
                pytest.fail("the process ended before its run did")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
                assert json.load(answer)["checks"] == {"postgres": "ok", "export": "ok"}
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                assert b'meterline_export_runs_total{outcome="done"} 1.0' in answer.read()
            assert world.sql("SELECT outcome, detail FROM export_runs") == [("done", "nothing was due")]
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
