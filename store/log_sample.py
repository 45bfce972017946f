"""I3: admitted rows against the records that they were made of, as long as Kafka still holds these.

A sample: random stretches of the log, all of it where it is short. Each stretch's rows are compared with what the codec
makes of the record at their offset.
"""

from __future__ import annotations

import operator
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from metering.pseudonyms import PREFIX
from meterline_schemas.event import Event, decode
from meterline_schemas.ingest import ingested_ms
from meterline_schemas.key import key_hash, murmur2, row_hash
from meterline_schemas.quantity import format_quantity
from meterline_schemas.rules import RULES
from runtime.exits import Exit, MeterlineExit
from store.fences import Fence
from store.findings import Check
from store.positions import Position

STRETCH_OFFSETS = 50
SAMPLE_MAX = 10_000
READ_WITHIN_S = 60.0
_POLL_S = 1.0
_CONSUME_MAX = 500

# Called so that both an exception and a hole in the list are seen; the client sets either for a name that is not UTF-8.
_read_headers = operator.methodcaller("headers")


class Stretch(NamedTuple):
    """[lowest, highest) of a partition."""

    partition: int
    lowest: int
    highest: int


class Content(NamedTuple):
    """What a row says of its event, as far as it is kept by position; `key_hash` stands for the three names of the key."""

    tenant_id: str
    usage_type: str
    quantity: str
    occurred_at_ms: int
    key_hash: int
    key_murmur2: int
    row_hash: int


def choose(windows: Sequence[Stretch], sample: int, random_below: Callable[[int], int] = secrets.randbelow) -> list[Stretch]:
    """Stretches of at most `sample` offsets in all: everything where that is no more, else random ones. Pure."""
    windows = [window for window in windows if window.lowest < window.highest]
    total = sum(window.highest - window.lowest for window in windows)
    if total <= sample:
        return list(windows)
    chosen: dict[int, set[int]] = {}
    for _ in range(max(1, sample // STRETCH_OFFSETS)):
        at = random_below(total)
        for window in windows:
            length = window.highest - window.lowest
            if at < length:
                lowest = window.lowest + at
                highest = min(lowest + min(STRETCH_OFFSETS, sample), window.highest)
                chosen.setdefault(window.partition, set()).update(range(lowest, highest))
                break
            at -= length
    return [stretch for partition, offsets in sorted(chosen.items()) for stretch in _joined(partition, sorted(offsets))]


def _joined(partition: int, offsets: Sequence[int]) -> list[Stretch]:
    stretches: list[Stretch] = []
    for offset in offsets:
        if stretches and stretches[-1].highest == offset:
            stretches[-1] = stretches[-1]._replace(highest=offset + 1)
        else:
            stretches.append(Stretch(partition, offset, offset + 1))
    return stretches


def check_content(
    client: Client,
    connect: Callable[[], Consumer],
    topic: str,
    fences: Sequence[Fence],
    log_starts: Callable[[], list[int]],
    rules: dict[int, list[tuple[int, int]]],
    sample: int,
) -> Check:
    """I3 of a sample below the fences of the epoch that goes on. Raises KafkaException when the log cannot be read in time.

    `rules` are the (from_offset, version) of each partition, ascending.
    """
    check = Check("I3")
    starts = log_starts()
    stretches = choose([Stretch(f.partition, starts[f.partition], f.next_offset) for f in fences], min(sample, SAMPLE_MAX))
    held = sum(max(0, fence.next_offset - starts[fence.partition]) for fence in fences)
    rows = _rows(client, fences[0].epoch, stretches) if stretches else {}
    missing: list[Position] = []
    if rows:
        records = _records(connect, topic, stretches, {(at.partition, at.offset) for at in rows})
        for at, content in rows.items():
            message = records.get((at.partition, at.offset))
            if message is None:
                missing.append(at)
                continue
            check.checked += 1
            _compare(check, at, content, message, rules)
    if missing:
        # Retention may have taken them meanwhile; then they are no longer ours to compare.
        starts = log_starts()
        for at in missing:
            if at.offset >= starts[at.partition]:
                check.add("record of an admitted row", {"position": str(at)}, "a record in the log", "none")
    check.detail = (
        f"a sample of {check.checked} rows equals its records (of {held} offsets below the fences that Kafka still holds)"
    )
    if not check.ok:
        check.detail = f"{check.findings_count} of {len(rows)} sampled rows differ from their records"
    return check


def _rows(client: Client, epoch: int, stretches: Sequence[Stretch]) -> dict[Position, Content]:
    within = " OR ".join(
        f"(kafka_partition = {partition} AND kafka_offset >= {lowest} AND kafka_offset < {highest})"
        for partition, lowest, highest in stretches
    )
    result = client.query(
        "SELECT kafka_partition, kafka_offset, tenant_id, usage_type, reinterpretAsInt64(quantity),"
        " toUnixTimestamp64Milli(occurred_at), key_hash, key_murmur2, row_hash FROM usage_events"
        f" WHERE log_epoch = {int(epoch)} AND ({within})"
        " ORDER BY kafka_partition, kafka_offset LIMIT 1 BY kafka_partition, kafka_offset"
    )
    return {
        Position(epoch, partition, offset): Content(tenant, usage_type, format_quantity(micros), *rest)
        for partition, offset, tenant, usage_type, micros, *rest in result.result_rows
    }


def _records(
    connect: Callable[[], Consumer], topic: str, stretches: Sequence[Stretch], wanted: set[tuple[int, int]]
) -> dict[tuple[int, int], Message]:
    """The wanted records that the log has. Bounded by the sample."""
    found: dict[tuple[int, int], Message] = {}
    deadline = time.monotonic() + READ_WITHIN_S
    consumer = connect()
    try:
        for stretch in stretches:
            offsets = [offset for partition, offset in wanted if partition == stretch.partition]
            offsets = [offset for offset in offsets if stretch.lowest <= offset < stretch.highest]
            if not offsets:
                continue
            consumer.assign([TopicPartition(topic, stretch.partition, min(offsets))])
            reached = min(offsets) - 1
            while reached < max(offsets):
                if time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{topic} could not be read in {READ_WITHIN_S:g} s"))
                for message in consumer.consume(min(_CONSUME_MAX, max(offsets) - reached), _POLL_S):
                    error, partition, offset = message.error(), message.partition(), message.offset()
                    if partition != stretch.partition or offset is None:
                        continue
                    if error is not None:
                        if error.code() not in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
                            raise KafkaException(error)
                        # The log ends, or begins only behind the position.
                        reached = max(offsets)
                        break
                    reached = max(reached, offset)
                    if (partition, offset) in wanted:
                        found[partition, offset] = message
    finally:
        consumer.close()
    return found


def _compare(check: Check, at: Position, row: Content, message: Message, rules: dict[int, list[tuple[int, int]]]) -> None:
    version = next((v for start, v in reversed(rules.get(at.partition, [])) if start <= at.offset), None)
    if version is None or version not in RULES:
        raise MeterlineExit(
            Exit.RULES_UNKNOWN, f"{at} was decided under rules version {version}, which this build lacks; run a newer one"
        )
    value = message.value() or b""
    try:
        headers = _read_headers(message) or []
    except (SystemError, UnicodeDecodeError):
        headers = [("schema-version", b"unreadable")]
    first_ms = ingested_ms(at.epoch, headers, message.timestamp()[1], RULES[version])
    event = decode(value, headers, first_ms, RULES[version])
    where = {"position": str(at)}
    if not isinstance(event, Event):
        check.add("an admitted row of an invalid record", where, f"{event.reason}: {event.detail}", "admitted")
        return
    record = Content(
        event.tenant_id,
        event.usage_type,
        format_quantity(event.quantity),
        event.occurred_at_ms,
        key_hash(event.key),
        murmur2(event.key),
        row_hash(value),
    )
    if row.tenant_id.startswith(PREFIX):
        # Forgotten: the row keeps what its number and its key are made of, and no name.
        record = record._replace(tenant_id=row.tenant_id)
    if record != row:
        differing = [name for name in Content._fields if getattr(record, name) != getattr(row, name)]
        check.add(
            "content",
            where,
            ", ".join(f"{name} {getattr(record, name)}" for name in differing),
            ", ".join(f"{name} {getattr(row, name)}" for name in differing),
        )
