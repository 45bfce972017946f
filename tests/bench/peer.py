"""What a careful team writes first: one event after the other, with the libraries that everybody uses.

`python -m tests.bench.peer loop|faust COUNT` reads so many events of the log that the environment names, and prints the rate
from the first event to the last one stored. It keeps no promise beyond a set of keys in memory: no restart, no proof.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import faust
import psycopg
from confluent_kafka import TopicPartition
from pydantic import BaseModel, Field

from runtime import clickhouse, kafka, postgres
from runtime.settings import Settings, load_settings
from tests.bench.events import PARTITIONS, TOLD

ROWS_A_BATCH = 1_000


class UsageEvent(BaseModel):
    tenant_id: str = Field(alias="tenantId", min_length=1, max_length=256)
    source_service: str = Field(alias="sourceService", min_length=1, max_length=256)
    source_entity_id: str = Field(alias="sourceEntityId", min_length=1, max_length=256)
    usage_type: str = Field(alias="usageType", min_length=1, max_length=256)
    quantity: Decimal = Field(max_digits=18, decimal_places=6)
    occurred_at: datetime = Field(alias="occurredAt")
    kind: str = "usage"
    metadata: dict[str, Any] = Field(default_factory=dict)


class Keeper:
    """Dedup in memory, rows to ClickHouse and sums to Postgres, a thousand events at a time."""

    def __init__(self, settings: Settings) -> None:
        self._clickhouse = clickhouse.client(settings)
        self._clickhouse.command(
            "CREATE TABLE peer_events (tenant_id String, usage_type LowCardinality(String),"
            " source_service LowCardinality(String), source_entity_id String, quantity Decimal(18, 6),"
            " occurred_at DateTime64(3, 'UTC'), partition UInt32, offset UInt64)"
            " ENGINE = MergeTree ORDER BY (tenant_id, usage_type, source_service, source_entity_id)"
        )
        self._postgres: psycopg.Connection[Any] = postgres.connect(settings)
        self._postgres.execute(
            "CREATE TABLE peer_counters (tenant_id text, usage_type text, day date, quantity numeric, events bigint,"
            " PRIMARY KEY (tenant_id, usage_type, day))"
        )
        self._postgres.commit()
        self._seen: set[tuple[str, str, str]] = set()
        self._rows: list[list[Any]] = []

    def take(self, value: bytes, partition: int, offset: int) -> None:
        event = UsageEvent.model_validate_json(value)
        key = (event.source_service, event.source_entity_id, event.usage_type)
        if key in self._seen:
            return
        self._seen.add(key)
        at = event.occurred_at.astimezone(UTC)
        names = [event.tenant_id, event.usage_type, event.source_service, event.source_entity_id]
        self._rows.append([*names, event.quantity, at, partition, offset])
        if len(self._rows) >= ROWS_A_BATCH:
            self.store()

    def store(self) -> None:
        if not self._rows:
            return
        self._clickhouse.insert("peer_events", self._rows)
        sums: dict[tuple[str, str, Any], list[Any]] = defaultdict(lambda: [Decimal(0), 0])
        for tenant, usage_type, _, _, quantity, at, _, _ in self._rows:
            line = sums[tenant, usage_type, at.date()]
            line[0] += quantity
            line[1] += 1
        lines = [(*key, quantity, events) for key, (quantity, events) in sorted(sums.items())]
        self._postgres.execute(
            "INSERT INTO peer_counters AS c SELECT * FROM unnest(%s::text[], %s::text[], %s::date[], %s::numeric[], %s::bigint[])"
            " ON CONFLICT (tenant_id, usage_type, day) DO UPDATE"
            " SET quantity = c.quantity + excluded.quantity, events = c.events + excluded.events",
            [list(column) for column in zip(*lines, strict=True)],
        )
        self._postgres.commit()
        self._rows = []


def by_a_loop(settings: Settings, count: int) -> float:
    """Seconds."""
    keeper = Keeper(settings)
    reader = kafka.consumer(settings, **{"group.id": "peer-loop"})
    reader.assign([TopicPartition(settings.topic_events, partition, 0) for partition in range(PARTITIONS)])
    taken, began = 0, 0.0
    while taken < count:
        messages = [message for message in reader.consume(ROWS_A_BATCH, 0.5) if message.error() is None]
        began = began or time.perf_counter()
        for message in messages[: count - taken]:
            value, partition, offset = message.value(), message.partition(), message.offset()
            assert value is not None and partition is not None and offset is not None  # noqa: PT018
            keeper.take(value, partition, offset)
        taken += len(messages)
    keeper.store()
    return time.perf_counter() - began


def by_faust(settings: Settings, count: int) -> None:
    """Prints the seconds and leaves."""
    keeper, taken, began = Keeper(settings), 0, 0.0
    folder = settings.data_dir / "peer-faust"
    folder.mkdir(parents=True)
    app = faust.App(
        "peer-faust",
        broker=[f"kafka://{settings.kafka_url}"],
        broker_max_poll_records=1000,
        consumer_auto_offset_reset="earliest",
        datadir=str(folder),
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
    )
    events = app.topic(settings.topic_events, partitions=PARTITIONS, key_serializer="raw", value_serializer="raw")

    @app.agent(events)
    async def keep(stream: Any) -> AsyncIterator[None]:
        nonlocal taken, began
        async for event in stream.events():
            began = began or time.perf_counter()
            keeper.take(event.message.value, event.message.partition, event.message.offset)
            taken += 1
            if taken == count:
                keeper.store()
                _tell(time.perf_counter() - began)
                os._exit(0)
            yield

    faust.Worker(app, loglevel="warning", loop=asyncio.new_event_loop()).execute_from_commandline()


def _tell(seconds: float) -> None:
    sys.stdout.write(f"\n{TOLD}{seconds}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    how, events_max = sys.argv[1], int(sys.argv[2])
    if how == "loop":
        _tell(by_a_loop(load_settings(dict(os.environ)), events_max))
    else:
        by_faust(load_settings(dict(os.environ)), events_max)
