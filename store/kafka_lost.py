"""Kafka is gone with its topics: the lost log gets an end, and the next epoch begins in the cluster that the settings name.

What ClickHouse holds of the lost log is all that is known of it. So it ends behind the last record that has a row or a
reject, or at the fence where that is further. What lies between the fence and the end is counted from the rows; an offset
there of which nothing is stored is void: it was a duplicate, or it is lost, and nobody can tell any more.

1. Take the lock of `topics apply`; refuse where the cluster still has the topic: it would be ended with records in it.
2. Make the topics of the next epoch, and wait for them.
3. Take the exclusive lock of the rules, and lock every fence: nobody decides or counts meanwhile.
4. Count what is stored and not counted, move the fences to the ends, and record these, with the epoch retired.
5. Begin the next epoch with its fences and the rules in force; the audit trail. Commit.

A consumer of the next epoch knows the keys of all older ones, so whatever a sender sends again is recognised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clickhouse_connect.driver.client import Client
from confluent_kafka.admin import AdminClient
from psycopg import Connection

from meterline_schemas.delta import Figures
from runtime import clickhouse, kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from runtime.settings import Settings
from store import audit, event_log, topic_state
from store.declarations import EVENTS
from store.epochs import CHANGE_RULES, Epoch, all_epochs, begin_epoch, end_epoch
from store.fences import Fence, add_lines, lock_fences, move_fence, note_repair, read_fences
from store.rules_change import in_force
from store.topic_changes import create, wait_until_visible
from store.topics import APPLY_LOCK_TIMEOUT_S, topic_of, wanted_topics

_CAUSE = "the log was lost; what was stored of it is counted"


@dataclass(frozen=True)
class Ending:
    """A partition of a lost log: where it ends, what of it is still to be counted, and offsets of which nothing is known."""

    epoch: int
    partition: int
    fence: int
    end: int
    uncounted: int
    unknown: int

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Loss:
    """What would be done, or was done."""

    topic: str
    epoch: int
    partitions: int
    endings: tuple[Ending, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "topic": self.topic,
            "partitions": self.partitions,
            "endings": [ending.as_json() for ending in self.endings],
        }


def plan(settings: Settings) -> Loss:
    """What `begin_anew` would do. Raises MeterlineExit where it would refuse."""
    client = clickhouse.client(settings)
    try:
        with postgres.connect(settings) as connection:
            epochs = _lost(connection, kafka.admin(settings))
            return _loss(settings, client, epochs, read_fences(connection))
    finally:
        client.close()


def begin_anew(settings: Settings, who: str) -> Loss:
    """Ends the lost log and begins the next epoch. All or nothing is recorded; safe to repeat after any failure."""
    options = f"-c statement_timeout={APPLY_LOCK_TIMEOUT_S * 1000} -c TimeZone=UTC"
    client = clickhouse.client(settings)
    try:
        with postgres.connect(settings, options=options) as connection:
            # 1.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.TOPICS,))
            admin = kafka.admin(settings)
            epochs = _lost(connection, admin)
            old, number = epochs[-1], epochs[-1].epoch + 1
            # 2.
            coming = replace(old, epoch=number, topic=topic_of(settings, number), ends=None)
            topics = wanted_topics(settings, [*epochs, coming])
            create(admin, topics)
            events = next(topic for topic in topics if topic.declaration.name == EVENTS)
            state, starts = wait_until_visible(admin, topics, events.topic)
            # 3.
            connection.execute(CHANGE_RULES)
            version = in_force(connection, old)
            fences = lock_fences(connection, [(fence.epoch, fence.partition) for fence in read_fences(connection)])
            # 4.
            loss = _loss(settings, client, epochs, list(fences.values()))
            for ending in loss.endings:
                _count(connection, client, fences[ending.epoch, ending.partition], ending)
            end_epoch(connection, old.epoch, [ending.end for ending in loss.endings if ending.epoch == old.epoch])
            connection.execute("UPDATE epochs SET retired_at = now() WHERE retired_at IS NULL AND ends IS NOT NULL")
            # 5.
            begun = Epoch(number, state.topic, state.cluster_id, state.topic_id, state.partitions, tuple(starts), None)
            begin_epoch(connection, begun, version)
            audit.record(connection, who, [audit.Entry("epoch.lost", f"epoch {old.epoch}", None, loss.as_json())])
    finally:
        client.close()
    return loss


def _lost(connection: Connection[Any], admin: AdminClient) -> list[Epoch]:
    epochs = all_epochs(connection)
    if not epochs:
        raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: there is no log that could be lost")
    current = epochs[-1]
    state = topic_state.describe(admin, [current.topic])[current.topic]
    if state is not None and (state.cluster_id, state.topic_id) == (current.cluster_id, current.topic_id):
        raise MeterlineExit(
            Exit.FAILED,
            f"topic {current.topic} of epoch {current.epoch} is there: nothing is lost. For other partitions there is `meterline "
            "topics repartition`",
        )
    return epochs


def _loss(settings: Settings, client: Client, epochs: Sequence[Epoch], fences: Sequence[Fence]) -> Loss:
    open_epochs = {epoch.epoch: epoch for epoch in epochs if not epoch.retired}
    endings = []
    for fence in sorted(fences, key=lambda fence: (fence.epoch, fence.partition)):
        epoch = open_epochs.get(fence.epoch)
        if epoch is None:
            continue
        end = epoch.ends[fence.partition] if epoch.ends else max(fence.next_offset, _stored_up_to(client, fence))
        rows = event_log.recompute(client, fence.epoch, fence.partition, fence.next_offset, end).events
        rejects = sum(_rejects(client, fence, end))
        unknown = end - fence.next_offset - rows - rejects
        endings.append(Ending(fence.epoch, fence.partition, fence.next_offset, end, rows, unknown))
    number = epochs[-1].epoch + 1
    return Loss(topic_of(settings, number), number, epochs[-1].partitions, tuple(endings))


def _stored_up_to(client: Client, fence: Fence) -> int:
    """The offset behind the last record of the partition that has a row or a reject."""
    ((end,),) = client.query(
        "SELECT max(next) FROM (SELECT max(kafka_offset) + 1 AS next FROM usage_events"
        " WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset >= {f:UInt64} HAVING count() > 0"
        " UNION ALL SELECT max(kafka_offset) + 1 FROM usage_rejects"
        " WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset >= {f:UInt64} HAVING count() > 0)",
        parameters={"e": fence.epoch, "p": fence.partition, "f": fence.next_offset},
    ).result_rows
    return int(end)


def _rejects(client: Client, fence: Fence, end: int) -> tuple[int, int, int]:
    """(duplicates in other bytes, conflicts, invalid ones) of [fence, end)."""
    ((duplicate, conflict, invalid),) = client.query(
        "SELECT uniqExactIf(kafka_offset, verdict = 'duplicate'), uniqExactIf(kafka_offset, verdict = 'conflict'),"
        " uniqExactIf(kafka_offset, verdict = 'invalid') FROM usage_rejects WHERE log_epoch = {e:UInt16}"
        " AND kafka_partition = {p:UInt32} AND kafka_offset >= {f:UInt64} AND kafka_offset < {t:UInt64}",
        parameters={"e": fence.epoch, "p": fence.partition, "f": fence.next_offset, "t": end},
    ).result_rows
    return int(duplicate), int(conflict), int(invalid)


def _count(connection: Connection[Any], client: Client, fence: Fence, ending: Ending) -> None:
    if ending.end == fence.next_offset:
        return
    found = event_log.recompute(client, fence.epoch, fence.partition, fence.next_offset, ending.end)
    duplicate, conflict, invalid = _rejects(client, fence, ending.end)
    void = ending.end - fence.next_offset - found.events - duplicate - conflict - invalid
    added = Figures(found.events, duplicate, conflict, invalid, void, found.hash_sum)
    add_lines(connection, found.lines)
    note_repair(connection, fence, ending.end, _CAUSE)
    move_fence(connection, replace(fence, next_offset=ending.end, figures=fence.figures.plus(added)))
