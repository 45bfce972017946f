"""The outbox: records that a transaction promised to Kafka. Who promises inserts a row; `serve entitlements` relays it.

A row is sent when a broker's acknowledgement gave it a position. It may be published more than once (a relay may die
between the acknowledgement and its commit): any acknowledged position will do, for every copy has the same key and value.
Statements run in the caller's transaction; the caller commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb

from store.steps import Ask, Steps


@dataclass(frozen=True)
class Record:
    """What is to be published. To a topic of events it goes to the newest epoch's."""

    topic: str
    key: bytes
    value: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Waiting:
    """A row of the outbox that is to be published now."""

    id: int
    record: Record
    epoch: int | None
    """Of the topic; None for a topic that has none."""
    again: bool
    """It was acknowledged, at or past its epoch's end."""


@dataclass(frozen=True)
class Backlog:
    """How many rows wait, counted up to a bound, and for how long the oldest has."""

    rows: int
    oldest_s: float


BACKLOG_COUNTED_MAX = 100_000

_ADD = """
INSERT INTO outbox (topic, record_key, value, headers) VALUES (%(topic)s, %(key)s, %(value)s, %(headers)s) RETURNING id
"""

_EPOCHS = "SELECT epoch, topic, ends IS NULL FROM epochs ORDER BY epoch"

_COLUMNS = "o.id, o.topic, o.record_key, o.value, o.headers"

_UNSENT = f"SELECT {_COLUMNS} FROM outbox o WHERE o.sent_at IS NULL ORDER BY o.id LIMIT %s FOR UPDATE SKIP LOCKED"

_PAST_THEIR_END = f"""
SELECT {_COLUMNS}
  FROM epochs e
 CROSS JOIN LATERAL unnest(e.ends) WITH ORDINALITY AS at (log_end, number)
  JOIN outbox o ON o.epoch = e.epoch AND o.partition = at.number - 1 AND o.kafka_offset >= at.log_end
 WHERE o.sent_at IS NOT NULL
 ORDER BY o.id
 LIMIT %s
   FOR UPDATE OF o SKIP LOCKED
"""

_ACKNOWLEDGED = """
WITH acked AS (
    UPDATE outbox o
       SET epoch = a.epoch, partition = a.partition, kafka_offset = a.kafka_offset, sent_at = statement_timestamp()
      FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bigint[]) AS a (id, epoch, partition, kafka_offset)
     WHERE o.id = a.id
    RETURNING o.id, o.epoch, o.partition, o.kafka_offset
)
UPDATE holds h
   SET epoch = acked.epoch, partition = acked.partition, kafka_offset = acked.kafka_offset
  FROM acked
 WHERE h.outbox_id = acked.id AND h.done_at IS NULL
"""

_BACKLOG = """
SELECT count(*), coalesce(extract(epoch FROM statement_timestamp() - min(created_at)), 0)::float8
  FROM (SELECT created_at FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT %s) waiting
"""


def add(record: Record) -> Steps[int]:
    """Promises the record; it is published once the caller's transaction is committed. Answers with the row's id."""
    headers = Jsonb(dict(record.headers))
    rows = yield Ask(_ADD, {"topic": record.topic, "key": record.key, "value": record.value, "headers": headers})
    return int(rows[0][0])


def claim(connection: Connection[Any], events_topic: str, rows_max: int) -> list[Waiting]:
    """Rows to publish now, locked until the caller's transaction ends; those that another relay has are skipped.

    First what was never acknowledged, then what stands at or past its epoch's end, where it gets no verdict. While no
    epoch is open (a repartitioning is under way), events wait.
    """
    epochs = connection.execute(_EPOCHS).fetchall()
    topics = {events_topic, *(topic for _, topic, _ in epochs)}
    newest, newest_topic, is_open = epochs[-1] if epochs else (None, None, False)
    found = [(*row, False) for row in connection.execute(_UNSENT, (rows_max,)).fetchall()]
    if is_open and newest is not None and newest > 1 and len(found) < rows_max:
        lost = connection.execute(_PAST_THEIR_END, (rows_max - len(found),)).fetchall()
        found += [(*row, True) for row in lost]
    waiting = []
    for row_id, topic, key, value, headers, again in found:
        of_events = topic in topics
        if of_events and not is_open:
            continue
        to = str(newest_topic) if of_events else topic
        record = Record(to, bytes(key), bytes(value), headers)
        waiting.append(Waiting(row_id, record, int(newest) if of_events and newest is not None else None, again))
    return waiting


def acknowledged(connection: Connection[Any], positions: Mapping[int, tuple[int | None, int, int]]) -> None:
    """Notes (epoch, partition, offset) by row, and in the holds that were settled with the rows."""
    columns = [list(positions), *(list(column) for column in zip(*positions.values(), strict=True))]
    connection.execute(_ACKNOWLEDGED, columns)


def backlog(connection: Connection[Any]) -> Backlog:
    """What waits now."""
    row = connection.execute(_BACKLOG, (BACKLOG_COUNTED_MAX,)).fetchone()
    assert row is not None
    return Backlog(rows=row[0], oldest_s=max(0, row[1]))
