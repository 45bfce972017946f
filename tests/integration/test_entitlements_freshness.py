"""`asOf` stays right and quick when the counters are far behind a hundred thousand samples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from entitlements.freshness import PROBES_MAX, Freshness
from entitlements.store import Store
from runtime.settings import Settings

START = datetime(2026, 11, 1, tzinfo=UTC)
SAMPLES = 100_000
STEP_MS = 250


@pytest.fixture(scope="module")
def filled(migrated: Settings) -> Settings:
    """Sample n begins STEP_MS * n after START, lasts a little less, and ends at n in every partition."""
    with psycopg.connect(migrated.postgres_url.get_secret_value()) as connection:
        connection.execute(
            "INSERT INTO freshness_samples SELECT 1, %(start)s::timestamptz + n * %(step)s, %(start)s::timestamptz + n * %(step)s"
            " + interval '200 ms', array_fill(n, ARRAY[%(partitions)s]) FROM generate_series(1, %(count)s) n",
            {
                "start": START,
                "step": timedelta(milliseconds=STEP_MS),
                "partitions": migrated.topic_partitions,
                "count": SAMPLES,
            },
        )
    return migrated


def count_up_to(settings: Settings, offset: int, *, but_one_partition_at: int | None = None) -> None:
    with psycopg.connect(settings.postgres_url.get_secret_value()) as connection:
        connection.execute("ALTER TABLE delta_fences DISABLE TRIGGER USER")
        connection.execute("UPDATE delta_fences SET next_offset = %(to)s, void = %(to)s", {"to": offset})
        if but_one_partition_at is not None:
            to = {"to": but_one_partition_at}
            connection.execute("UPDATE delta_fences SET next_offset = %(to)s, void = %(to)s WHERE partition = 1", to)
        connection.execute("ALTER TABLE delta_fences ENABLE TRIGGER USER")


class Counting(Store):
    """Counts its statements."""

    statements = 0

    async def rows(self, name: str, sql: bytes, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        self.statements += 1
        return await super().rows(name, sql, parameters)


def look(settings: Settings) -> tuple[str | None, int, float]:
    """(asOf, statements, seconds) of one refresh by a server that has just started."""

    async def run() -> tuple[str | None, int, float]:
        store = Counting(settings)
        await store.open()
        try:
            freshness = Freshness(store)
            await freshness.refresh()
            store.statements = 0
            began = time.perf_counter()
            await freshness.refresh()
            return freshness.as_of, store.statements, time.perf_counter() - began
        finally:
            await store.close(2.0)

    return asyncio.run(run())


def expected(sample: int) -> str:
    until = START + timedelta(milliseconds=STEP_MS * sample + 200)
    return until.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_no_sample_reached_is_not_known(filled: Settings) -> None:
    count_up_to(filled, 0)
    as_of, statements, _ = look(filled)
    assert as_of is None
    assert statements <= 3


@pytest.mark.parametrize("reached", [1, 2, 3, 777, 50_000, SAMPLES - 17, SAMPLES - 16, SAMPLES - 15, SAMPLES - 1, SAMPLES])
def test_the_newest_reached_sample_is_found_wherever_it_stands(filled: Settings, reached: int) -> None:
    count_up_to(filled, reached)
    as_of, statements, seconds = look(filled)
    assert as_of == expected(reached)
    assert statements <= PROBES_MAX
    # Whatever the backlog: single-row reads of an index. The bound is wide; a scan of all samples takes longer.
    assert seconds < 1.0


def test_one_partition_behind_holds_it_back(filled: Settings) -> None:
    count_up_to(filled, SAMPLES, but_one_partition_at=4_321)
    assert look(filled)[0] == expected(4_321)
