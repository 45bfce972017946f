"""`asOf`: the latest time whose whole log end the fences have reached, and never a later one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from aggregator.freshness import Sampler
from runtime import postgres
from runtime.settings import Settings
from store import freshness
from store.freshness import covered_until, store_sample, trim_samples

T0 = datetime(2026, 9, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@pytest.fixture
def connection(migrated: Settings) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that is rolled back: each test begins without samples, all fences at 0."""
    with postgres.connect(migrated) as opened:
        yield opened
        opened.rollback()


def count_up_to(connection: psycopg.Connection[Any], *ends: int) -> None:
    for partition, end in enumerate(ends):
        connection.execute(
            "UPDATE delta_fences SET next_offset = %s, void = %s WHERE epoch = 1 AND partition = %s", (end, end, partition)
        )


def samples(connection: psycopg.Connection[Any]) -> list[tuple[datetime, datetime, list[int]]]:
    return connection.execute("SELECT seen_from, seen_until, ends FROM freshness_samples ORDER BY seen_from").fetchall()


def test_without_a_sample_nothing_is_known(connection: psycopg.Connection[Any]) -> None:
    assert covered_until(connection) == (None, 0)


def test_an_unchanged_end_moves_the_newest_sample_and_a_changed_one_adds_a_row(connection: psycopg.Connection[Any]) -> None:
    for second in (0, 1, 2):
        store_sample(connection, 1, at(second), [0, 0, 0, 0])
    store_sample(connection, 1, at(3), [0, 5, 0, 0])
    assert samples(connection) == [(at(0), at(2), [0, 0, 0, 0]), (at(3), at(3), [0, 5, 0, 0])]


def test_an_idle_log_is_covered_up_to_its_newest_sample(connection: psycopg.Connection[Any]) -> None:
    store_sample(connection, 1, at(0), [0, 0, 0, 0])
    store_sample(connection, 1, at(9), [0, 0, 0, 0])
    assert covered_until(connection) == (at(9), 0)


def test_one_partition_that_is_behind_holds_the_time_back_and_the_others_do_not_help(
    connection: psycopg.Connection[Any],
) -> None:
    store_sample(connection, 1, at(0), [0, 0, 0, 0])
    store_sample(connection, 1, at(1), [10, 4, 0, 0])
    store_sample(connection, 1, at(2), [20, 4, 0, 3])
    count_up_to(connection, 20, 3, 0, 3)
    assert covered_until(connection) == (at(0), 1)
    count_up_to(connection, 20, 4, 0, 3)
    assert covered_until(connection) == (at(2), 0)


def test_a_fence_between_two_samples_covers_the_earlier_one(connection: psycopg.Connection[Any]) -> None:
    store_sample(connection, 1, at(0), [0, 0, 0, 0])
    store_sample(connection, 1, at(1), [10, 0, 0, 0])
    store_sample(connection, 1, at(2), [30, 0, 0, 0])
    count_up_to(connection, 15, 0, 0, 0)
    assert covered_until(connection) == (at(1), 15)


def test_a_fence_beyond_the_newest_sample_covers_no_more_than_it(connection: psycopg.Connection[Any]) -> None:
    store_sample(connection, 1, at(1), [10, 0, 0, 0])
    count_up_to(connection, 99, 0, 0, 0)
    assert covered_until(connection) == (at(1), 0)


def test_samples_of_a_clock_that_stepped_back_do_not_move_time_back(connection: psycopg.Connection[Any]) -> None:
    store_sample(connection, 1, at(5), [0, 0, 0, 0])
    store_sample(connection, 1, at(3), [0, 0, 0, 0])
    assert samples(connection) == [(at(5), at(5), [0, 0, 0, 0])]


def test_the_samples_are_bounded_and_the_newest_stay(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "SAMPLES_MAX", 3)
    for second in range(6):
        store_sample(connection, 1, at(second), [second, 0, 0, 0])
    trim_samples(connection)
    assert [ends[0] for _, _, ends in samples(connection)] == [3, 4, 5]


def test_the_log_is_sampled_as_often_as_the_setting_says_and_not_more(migrated: Settings) -> None:
    stop = threading.Event()
    looked_at: list[float] = []

    def log(connection: psycopg.Connection[Any]) -> None:
        looked_at.append(time.monotonic())
        if len(looked_at) == 5:
            stop.set()

    Sampler(lambda: postgres.connect(migrated), log, 40, stop).run()
    assert len(looked_at) == 5
    assert all(later - earlier >= 0.039 for earlier, later in itertools.pairwise(looked_at))
