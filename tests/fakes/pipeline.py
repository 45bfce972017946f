"""The consumer and the aggregator as real processes on the run's stack, and a naive reading of the log to hold them to."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from pydantic import SecretStr

from consumers.polling import headers_of
from deploy.embedded.processes import Child, spawn
from meterline_schemas.delta import Figures
from meterline_schemas.event import Event, decode
from meterline_schemas.key import dedup_key, murmur2, partition_of, row_hash
from meterline_schemas.rules import RULES
from runtime import clickhouse, kafka, postgres
from runtime.settings import PREFIX, Settings
from store import fences, group, topic_state

ROOT = Path(__file__).parents[2]
SETTLED_WITHIN_S = 60.0


def wait_until(what: str, check: Callable[[], object], within_s: float = 30.0, every_s: float = 0.05) -> None:
    """Returns once `check` answers something true; fails the test with `what` when it does not in time."""
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        pause.wait(every_s)


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment that gives a process these settings."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    found = {name: value for name, value in os.environ.items() if name not in known}
    for name, value in settings:
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if plain is not None and plain != "":
            found[PREFIX + name.upper()] = str(plain)
    return found | {"PYTHONUNBUFFERED": "1"}


class Row(NamedTuple):
    """An admitted event as the log has it."""

    tenant_id: str
    usage_type: str
    service: str
    entity: str
    quantity: int
    day: int


@dataclass
class Truth:
    """What the log says, read naively: one dict of keys, one record after the other."""

    ends: list[int] = field(default_factory=list)
    figures: dict[int, Figures] = field(default_factory=dict)
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)
    rejects: dict[tuple[int, int], tuple[str, bytes]] = field(default_factory=dict)

    def total(self) -> Figures:
        total = Figures()
        for figures in self.figures.values():
            total = total.plus(figures)
        return total

    def counters(self) -> dict[tuple[str, str, int], tuple[int, int]]:
        sums: dict[tuple[str, str, int], tuple[int, int]] = {}
        for row in self.rows.values():
            key = (row.tenant_id, row.usage_type, row.day)
            quantity, events = sums.get(key, (0, 0))
            sums[key] = quantity + row.quantity, events + 1
        return sums


class Pipeline:
    """Owns the processes that it starts. Use as a context manager."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self._folder = settings, folder
        self._environment = environment_of(settings)
        self._admin = kafka.admin(settings)
        self._group = group.onlooker(settings)
        self._children: list[Child] = []
        with postgres.connect(settings) as connection:
            row = connection.execute("SELECT topic, partitions FROM epochs ORDER BY epoch DESC LIMIT 1").fetchone()
        assert row is not None
        self.topic, self.partitions = str(row[0]), int(row[1])
        self.clickhouse: Client = clickhouse.client(settings)
        # Any error of a record that was not taken; a producer that a test forgets to look at must not hide it.
        self._refused: list[KafkaError] = []
        self._producer = kafka.producer(settings)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
        self._producer.flush(5.0)
        self.clickhouse.close()

    # -- processes -----------------------------------------------------------------------------------------------

    def start(self, command: str, crash_at: str | None = None, program: Sequence[str] = ("cli",), **over: str) -> Child:
        """`meterline consume` or `aggregate`; `over` are settings by field name. `program` stands in place of meterline."""
        environment = self._environment | {PREFIX + name.upper(): value for name, value in over.items()}
        if crash_at is not None:
            environment["METERLINE_CRASH_AT"] = crash_at
        number = len(self._children)
        child = spawn(
            f"{command} {number}",
            [sys.executable, "-m", *program, command],
            log=self._folder / f"{number:02}-{command}.log",
            env=environment,
            cwd=ROOT,
        )
        self._children.append(child)
        return child

    def consume(self, crash_at: str | None = None, **over: str) -> Child:
        """A static member, so that the next one takes its partitions at once after a kill."""
        return self.start("consume", crash_at, **({"consumer_instance": "c1"} | over))

    def aggregate(self, crash_at: str | None = None, **over: str) -> Child:
        return self.start("aggregate", crash_at, **({"aggregator_instance": "a1"} | over))

    def wait_for_end(self, child: Child, within_s: float = 45.0) -> int:
        wait_until(f"the end of {child.name}:\n{child.tail()}", lambda: child.poll() is not None, within_s)
        status = child.poll()
        assert status is not None
        return status

    # -- the log -------------------------------------------------------------------------------------------------

    def send(self, value: bytes | None, key: bytes | None = None, partition: int | None = None, **over: Any) -> None:
        """One record; to the partition that its key leads to, or to the one given."""
        if key is not None and partition is None:
            partition = partition_of(key, self.partitions)
        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        arguments = {"on_delivery": self._on_delivery} | where | over
        while True:
            try:
                self._producer.produce(self.topic, value=value, key=key, **arguments)
            except BufferError:
                self._producer.poll(0.1)
                continue
            self._producer.poll(0)
            return

    def partition(self, entity: str) -> int:
        """Where the key of such an event leads to."""
        return partition_of(dedup_key("worker", entity, "PHOTO"), self.partitions)

    def send_event(self, entity: str, value: bytes, **over: Any) -> None:
        self.send(value, dedup_key("worker", entity, "PHOTO"), **over)

    def flush(self) -> None:
        assert self._producer.flush(30.0) == 0
        assert self._refused == []

    def _on_delivery(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._refused.append(error)

    def transactional(self, transactional_id: str) -> Producer:
        producer = kafka.producer(self.settings, **{"transactional.id": transactional_id})
        producer.init_transactions(30.0)
        return producer

    def ends(self) -> list[int]:
        return topic_state.log_ends(self._admin, self.topic, self.partitions)

    def read_log(self) -> Truth:
        """The whole log, record by record."""
        reader: Consumer = kafka.consumer(self.settings, **{"group.id": "naive", "auto.offset.reset": "earliest"})
        reader.assign([TopicPartition(self.topic, partition, 0) for partition in range(self.partitions)])
        truth, counts = Truth(), {partition: Counter[str]() for partition in range(self.partitions)}
        seen: dict[tuple[str, str, str], tuple[Event, bytes]] = {}
        ends: dict[int, int] = {}
        sums = dict.fromkeys(range(self.partitions), 0)
        while len(ends) < self.partitions:
            message = reader.poll(10.0)
            assert message is not None, "the log cannot be read"
            partition, offset, error = message.partition(), message.offset(), message.error()
            assert partition is not None
            assert offset is not None
            if error is not None:
                assert error.code() == KafkaError._PARTITION_EOF, error.str()
                ends[partition] = offset
                continue
            (headers,) = headers_of([message])
            value = message.value()
            event = decode(value, headers, message.timestamp()[1], RULES[1])
            verdict, raw = self._verdict(event, value or b"", partition, seen)
            counts[partition][verdict] += 1
            if verdict == "admitted":
                assert isinstance(event, Event)
                key = (event.source_service, event.source_entity_id, event.usage_type)
                seen[key] = (event, raw)
                day = event.occurred_at_ms // 86_400_000
                truth.rows[partition, offset] = Row(event.tenant_id, event.usage_type, key[0], key[1], event.quantity, day)
                sums[partition] = (sums[partition] + row_hash(raw)) % (1 << 64)
            elif verdict != "duplicate" or raw != seen[_key(event)][1]:
                truth.rejects[partition, offset] = (verdict, raw)
        reader.close()
        truth.ends = [ends[partition] for partition in range(self.partitions)]
        for partition, count in counts.items():
            void = ends[partition] - count.total()
            truth.figures[partition] = Figures(
                count["admitted"], count["duplicate"], count["conflict"], count["invalid"], void, sums[partition]
            )
        return truth

    def _verdict(
        self, event: object, raw: bytes, partition: int, seen: Mapping[tuple[str, str, str], tuple[Event, bytes]]
    ) -> tuple[str, bytes]:
        if not isinstance(event, Event) or (murmur2(event.key) & 0x7FFFFFFF) % self.partitions != partition:
            return "invalid", raw
        if _key(event) not in seen:
            return "admitted", raw
        first, _ = seen[_key(event)]
        same = (event.tenant_id, event.quantity, event.kind, event.corrects) == (
            first.tenant_id, first.quantity, first.kind, first.corrects,
        )  # fmt: skip
        return ("duplicate" if same else "conflict"), raw

    # -- the stores ----------------------------------------------------------------------------------------------

    def fences(self) -> list[fences.Fence]:
        with postgres.connect(self.settings) as connection:
            return fences.read_fences(connection, 1)

    def committed(self) -> dict[int, int]:
        try:
            found = group.committed(self._group, self.topic, 1, self.partitions)
        except KafkaException:  # the broker is still making the group's coordinator ready
            return {}
        return {partition: position.offset for partition, position in found.items() if position.note is not None}

    def query(self, sql: str) -> Iterable[Any]:
        return self.clickhouse.query(sql).result_rows

    def postgres(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with postgres.connect(self.settings) as connection:
            return connection.execute(sql, parameters).fetchall()

    def settled(self) -> bool:
        """Whether everything in the log is committed and counted."""
        ends = self.ends()
        committed = self.committed()
        try:
            counted = [fence.next_offset for fence in self.fences()]
        except psycopg.OperationalError:
            return False
        return counted == ends and all(committed.get(p, 0) == end for p, end in enumerate(ends))

    def settle(self, within_s: float = SETTLED_WITHIN_S) -> None:
        """Waits until everything is counted; tells what the processes said when that takes too long."""

        def what() -> str:
            counted = [fence.next_offset for fence in self.fences()]
            logs = "\n".join(f"{child.name} ({child.poll()}):\n{child.tail()}" for child in self._children[-4:])
            return f"log ends {self.ends()}, committed {self.committed()}, counted {counted}\n{logs}"

        deadline, pause = time.monotonic() + within_s, threading.Event()
        while not self.settled():
            assert time.monotonic() < deadline, f"not settled within {within_s:g} s: {what()}"
            pause.wait(0.1)

    def assert_exact(self) -> Truth:
        """Every store holds what the log says, no more and no less. Call it when settled."""
        truth = self.read_log()
        # I5, I1: at rest fence = committed offset = log end, and each offset has one verdict.
        found = self.fences()
        assert [fence.next_offset for fence in found] == truth.ends
        assert self.committed() == {
            partition: end for partition, end in enumerate(truth.ends) if end or partition in self.committed()
        }
        assert {fence.partition: fence.figures for fence in found} == truth.figures
        for partition, end in enumerate(truth.ends):
            assert truth.figures[partition].offsets == end
        # I2, I3: one row a key, the first one, with the record's content.
        rows = self.query(
            "SELECT kafka_partition, kafka_offset, tenant_id, usage_type, source_service, source_entity_id,"
            " reinterpretAsInt64(quantity), toInt32(toDate(occurred_at, 'UTC')), log_epoch FROM usage_events FINAL"
        )
        stored = {(row[0], row[1]): Row(row[2], row[3], row[4], row[5], row[6], row[7]) for row in rows}
        assert stored == truth.rows
        (keys,) = self.query("SELECT uniqExact(source_service, source_entity_id, usage_type), count() FROM usage_events FINAL")
        assert keys == (len(truth.rows), len(truth.rows))
        # I4: counters are the sums of the rows.
        counters = self.postgres("SELECT tenant_id, usage_type, day - date '1970-01-01', quantity, events FROM usage_counters")
        assert {(row[0], row[1], row[2]): (_micros(row[3]), row[4]) for row in counters} == truth.counters()
        totals = dict.fromkeys([(row[0], row[1]) for row in counters], 0)
        for tenant, usage_type, _, quantity, _ in counters:
            totals[tenant, usage_type] += _micros(quantity)
        running = self.postgres("SELECT tenant_id, usage_type, quantity FROM usage_totals")
        assert {(row[0], row[1]): _micros(row[2]) for row in running} == totals
        # I6: every reject is kept once, raw.
        rejects = self.clickhouse.query(
            "SELECT kafka_partition, kafka_offset, verdict, raw_value FROM usage_rejects FINAL",
            query_formats={"String": "bytes"},
        ).result_rows
        assert {(row[0], row[1]): (_text(row[2]), bytes(row[3])) for row in rejects} == truth.rejects
        assert len(rejects) == len(truth.rejects)
        return truth


def _key(event: object) -> tuple[str, str, str]:
    assert isinstance(event, Event)
    return event.source_service, event.source_entity_id, event.usage_type


def _micros(quantity: Decimal) -> int:
    scaled = quantity.scaleb(6)
    assert scaled == int(scaled)
    return int(scaled)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
