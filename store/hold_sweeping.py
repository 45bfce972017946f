"""What is done to holds after the fact, in bounded batches: orphans are marked, and verdicts are noted.

Neither decides what is held: an expired hold holds nothing from its time on, a settled one nothing once the fence has passed.
Statements run in the caller's transaction; the caller commits. Safe with several at once: they skip each other's rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from clickhouse_connect.driver.client import Client
from psycopg import Connection

from metering.holds import LogPosition, Verdict, verdict_of
from meterline_schemas.event import Event, decode
from meterline_schemas.key import key_hash, row_hash
from meterline_schemas.rules import NEWEST_RULES, RULES
from store import credits, event_log
from store.credits import By
from store.steps import run

SWEEPER = By("hold sweeper")

_EXPIRE = """
UPDATE holds SET state = 'expired', done_at = statement_timestamp()
 WHERE hold_id IN (SELECT hold_id FROM holds WHERE state = 'open' AND expires_at <= statement_timestamp()
                    ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING tenant_id, user_id, hold_id, credits IS NOT NULL
"""

_UNJUDGED = """
SELECT h.hold_id, h.epoch, h.partition, h.kafka_offset, o.value, h.occurred_at
  FROM delta_fences f
  JOIN holds h ON h.epoch = f.epoch AND h.partition = f.partition AND h.kafka_offset < f.next_offset
  JOIN outbox o ON o.id = h.outbox_id
 WHERE h.state = 'settled' AND h.done_at IS NULL
 LIMIT %s
   FOR UPDATE OF h SKIP LOCKED
"""

_JUDGED = """
UPDATE holds h SET verdict = j.verdict, done_at = statement_timestamp()
  FROM unnest(%s::uuid[], %s::text[]) AS j (hold_id, verdict)
 WHERE h.hold_id = j.hold_id
"""


@dataclass(frozen=True)
class Counted:
    """A settled hold that the fence has passed, and the event that it published."""

    hold_id: uuid.UUID
    position: LogPosition
    event: Event
    row_hash: int


def expire(connection: Connection[Any], rows_max: int) -> int:
    """Marks open holds past their time as expired, and gives back the credits that they held; how many."""
    expired = connection.execute(_EXPIRE, (rows_max,)).fetchall()
    # By account: two who lock several wait for each other in one order.
    for *_, hold_id in sorted((tenant, user, hold_id) for tenant, user, hold_id, priced in expired if priced):
        run(connection, credits.release(hold_id, by=SWEEPER, expired=True))
    return len(expired)


def counted(connection: Connection[Any], rows_max: int) -> list[Counted]:
    """Settled holds without a verdict that the fence has passed, locked until the caller's transaction ends."""
    found = []
    for hold_id, epoch, partition, offset, value, occurred_at in connection.execute(_UNJUDGED, (rows_max,)):
        # It was read by the codec before it was promised; its own time stands for the time of ingest here.
        event = decode(bytes(value), None, round(occurred_at.timestamp() * 1000), RULES[NEWEST_RULES])
        assert isinstance(event, Event), f"the outbox holds an event that breaks {event}"
        found.append(Counted(hold_id, LogPosition(epoch, partition, offset), event, row_hash(bytes(value))))
    return found


def verdicts(client: Client, holds: list[Counted]) -> dict[uuid.UUID, Verdict]:
    """What became of their events, by hold. One that ClickHouse does not show yet is left out. Raises ClickHouseError."""
    admitted = event_log.confirm(client, np.array([key_hash(hold.event.key) for hold in holds], dtype=np.uint64))
    rejected = _rejected(client, [hold.position for hold in holds if hold.event.key not in admitted])
    found = {}
    for hold in holds:
        verdict = verdict_of(hold.position, hold.event, hold.row_hash, admitted.get(hold.event.key), hold.position in rejected)
        if verdict is not None:
            found[hold.hold_id] = verdict
    return found


def judge(connection: Connection[Any], found: Mapping[uuid.UUID, Verdict]) -> None:
    """Notes the verdicts: these holds are done."""
    connection.execute(_JUDGED, (list(found), list(found.values())))


def _rejected(client: Client, positions: list[LogPosition]) -> set[LogPosition]:
    if not positions:
        return set()
    wanted = ",".join(f"({at.epoch},{at.partition},{at.offset})" for at in positions)
    rows = client.query(
        "SELECT log_epoch, kafka_partition, kafka_offset FROM usage_rejects"
        f" WHERE (log_epoch, kafka_partition, kafka_offset) IN ({wanted})"
    ).result_rows
    return {LogPosition(*row) for row in rows}
