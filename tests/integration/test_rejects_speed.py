"""Rejects are found by what people look for without reading all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from meterline_schemas.key import dedup_key
from runtime import clickhouse
from runtime.settings import Settings
from store import rejects
from store.rejects import Wanted

ROWS = 400_000
DAY = datetime(2026, 11, 1, tzinfo=UTC)


class Watched:
    """A client that keeps what it is asked."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def query(self, sql: str, parameters: dict[str, Any], **over: Any) -> Any:
        self.asked.append((sql, parameters))
        return self.client.query(sql, parameters=parameters, **over)

    def part_read(self) -> float:
        """Of the granules that the last question could have to read, the part that it reads."""
        sql, parameters = self.asked[-1]
        plan = self.client.query(f"EXPLAIN indexes = 1 {sql}", parameters=parameters).result_rows
        reads, of = 0, 0
        for scan in "\n".join(str(row[0]) for row in plan).split("ReadFromMergeTree")[1:]:
            granules = re.findall(r"Granules: (\d+)/(\d+)", scan)
            reads, of = reads + int(granules[-1][0]), max(of, int(granules[0][1]))
        return reads / of


@pytest.fixture(scope="module")
def watched(migrated: Settings) -> Watched:
    client = clickhouse.client(migrated)
    client.command(
        "INSERT INTO usage_rejects SELECT 1, 0, number, 'invalid', if(number = 7, 'misrouted', 'bad_quantity'), '',"
        " concat('tnt_', toString(intDiv(number, 1000))), concat('service-', toString(intDiv(number, 100000))),"
        " concat('job-', toString(number)), 'PHOTO', toDateTime64('2026-11-01 00:00:00', 3, 'UTC') + intDiv(number, 10),"
        f" concat('key-', toString(number)), '', [], 0, 0, 0, 0, 1 FROM numbers({ROWS})"
    )
    return Watched(client)


LOOKS: dict[str, Callable[[Any], Any]] = {
    "tenant": lambda client: rejects.page(client, Wanted(tenant_id="tnt_17"), 50),
    "reason": lambda client: rejects.page(client, Wanted(reason="misrouted"), 50),
    "service": lambda client: rejects.page(client, Wanted(source_service="service-2"), 50),
    "time": lambda client: rejects.page(client, Wanted(since=DAY, until=DAY + timedelta(minutes=10)), 50),
    "key": lambda client: rejects.of_key(
        client, dedup_key("service-3", "job-333333", "PHOTO"), "service-3", "job-333333", "PHOTO"
    ),
}
PART_MAX = {"service": 0.35}


@pytest.mark.parametrize("by", LOOKS)
def test_a_look_reads_a_small_part_of_the_table(watched: Watched, by: str) -> None:
    found = LOOKS[by](watched)
    assert len(found.rejects if isinstance(found, rejects.Page) else found) in (1, 50)
    assert watched.part_read() <= PART_MAX.get(by, 0.15)
