"""The relay on the real broker: each promised record is published, by however many relays, and again past an epoch's end."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from confluent_kafka.cimpl import NewTopic

from entitlements.relay import Relay
from meterline_schemas.draft import EventDraft, encode_event
from runtime import kafka, postgres
from runtime.settings import Settings
from store import outbox, topic_state
from tests.fakes.pipeline import wait_until

RECORDS = 200


@pytest.fixture
def connection(migrated: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(migrated, autocommit=True) as connection:
        connection.execute("TRUNCATE outbox, holds")
        yield connection


def promise(connection: psycopg.Connection[Any], settings: Settings, entity: str) -> uuid.UUID:
    """A settled hold and the record that it promised."""
    encoded = encode_event(EventDraft("t", "worker", entity, "PHOTO", "1"), 1_700_000_000_000)
    (outbox_id,) = connection.execute(
        'INSERT INTO outbox (topic, record_key, value, headers) VALUES (%s, %s, %s, \'{"schema-version": "1"}\') RETURNING id',
        (settings.topic_events, encoded.event.key, encoded.value),
    ).fetchone()  # type: ignore[misc]
    hold_id, now = uuid.uuid4(), datetime.now(UTC)
    connection.execute(
        "INSERT INTO holds (hold_id, tenant_id, usage_type, source_service, source_entity_id, quantity, reason, state,"
        " created_at, expires_at, settled_at, settled_quantity, occurred_at, settled_late, settle_digest, outbox_id)"
        " VALUES (%s, 't', 'PHOTO', 'worker', %s, 1, 'within_plan', 'settled', %s, %s, %s, 1, %s, false, '', %s)",
        (hold_id, entity, now, now + timedelta(hours=1), now, now, outbox_id),
    )
    return hold_id


def held(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT coalesce(sum(quantity), 0) FROM held").fetchone()
    assert row is not None
    return int(row[0])


def ends(settings: Settings, topic: str, partitions: int) -> list[int]:
    return topic_state.log_ends(kafka.admin(settings), topic, partitions)


def test_two_relays_at_once_publish_each_record_once_and_note_where_it_stands(
    connection: psycopg.Connection[Any], migrated: Settings
) -> None:
    before = sum(ends(migrated, migrated.topic_events, migrated.topic_partitions))
    for number in range(RECORDS):
        promise(connection, migrated, f"both_{number}")
    stop = threading.Event()
    relays = [Relay(migrated, lambda: postgres.connect(migrated, autocommit=True)) for _ in range(2)]
    threads = [threading.Thread(target=relay.run_until, args=(stop,)) for relay in relays]
    for thread in threads:
        thread.start()
    try:
        wait_until("everything is sent", lambda: outbox.backlog(connection).rows == 0)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert sum(ends(migrated, migrated.topic_events, migrated.topic_partitions)) - before == RECORDS
    mismatched = connection.execute(
        "SELECT count(*) FROM holds h JOIN outbox o ON o.id = h.outbox_id"
        " WHERE (h.epoch, h.partition, h.kafka_offset) IS DISTINCT FROM (o.epoch, o.partition, o.kafka_offset) OR o.epoch IS NULL"
    ).fetchone()
    assert mismatched == (0,)
    assert connection.execute("SELECT count(DISTINCT (partition, kafka_offset)) FROM outbox").fetchone() == (RECORDS,)
    assert held(connection) == RECORDS


def test_what_stands_past_its_epochs_end_is_published_again_in_the_next_epoch_and_stays_held(
    connection: psycopg.Connection[Any], migrated: Settings
) -> None:
    relay = Relay(migrated, lambda: postgres.connect(migrated, autocommit=True))
    below, past = promise(connection, migrated, "below"), promise(connection, migrated, "past")
    assert relay.turn(connection) == (2, 2)
    next_topic = f"{migrated.topic_events}.2"
    admin = kafka.admin(migrated)
    admin.create_topics([NewTopic(next_topic, 1, 1)])[next_topic].result(20)
    rows = connection.execute("SELECT hold_id, partition, kafka_offset FROM holds")
    where = {hold_id: (partition, offset) for hold_id, partition, offset in rows}
    log_ends = ends(migrated, migrated.topic_events, migrated.topic_partitions)
    log_ends[where[past][0]] = min(log_ends[where[past][0]], where[past][1])
    assert where[below][0] != where[past][0] or where[below][1] < where[past][1]

    def publishes_nothing() -> None:
        assert relay.turn(connection) == (0, 0)

    publishes_nothing()
    # The epoch has ended, and the next one is not there yet: nothing is published where it would get no verdict.
    connection.execute("UPDATE epochs SET ends = %s WHERE epoch = 1", (log_ends,))
    third = promise(connection, migrated, "third")
    publishes_nothing()
    with connection.transaction():
        connection.execute(
            "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (2, %s, 'c', 't', 1, '{0}')",
            (next_topic,),
        )
        connection.execute("INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (2, 0, 0, 1)")
    assert relay.turn(connection) == (2, 2)
    epochs = dict(connection.execute("SELECT hold_id, epoch FROM holds").fetchall())
    assert epochs == {below: 1, past: 2, third: 2}
    assert ends(migrated, next_topic, 1) == [2]
    publishes_nothing()
    assert held(connection) == 3
    # The old epoch is counted to its end, then the new one: each hold ends with the fence of where it stands.
    for partition, end in enumerate(log_ends):
        connection.execute(
            "UPDATE delta_fences SET next_offset = %s, void = %s WHERE (epoch, partition) = (1, %s)", (end, end, partition)
        )
    assert held(connection) == 2
    connection.execute("UPDATE delta_fences SET next_offset = 2, void = 2 WHERE epoch = 2")
    assert held(connection) == 0
