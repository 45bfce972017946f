"""`meterline topics repartition N`: the running epoch ends, and the next one begins in a topic with N partitions.

1. Take the lock of `topics apply`; make the new topic, and grow the deltas topic: a delta goes to the partition that has
   its events' number. Until step 4 nobody knows of the new topic.
2. Take the exclusive lock of the rules: whoever decides without knowing of the end had fetched what it decides before.
3. Read the ends of the old topic: the vector E.
4. In this one transaction: E, the new epoch, its fences, its rules, where forwarding begins, the audit trail. Commit.

From then on consumers decide the old topic up to E and no further, and begin with the new one when every partition has
committed E. What producers still send to the old topic is forwarded; see `consumers.forwarding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka.admin import AdminClient
from psycopg import Connection

from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from runtime.settings import Settings
from store import audit, topic_state
from store.declarations import DELTAS, EVENTS, Wanted
from store.epochs import CHANGE_RULES, Epoch, all_epochs, begin_epoch, check_topic, end_epoch
from store.fences import read_fences
from store.remedies import kafka_answers, postgres_answers
from store.rules_change import in_force
from store.topic_changes import alter, create, grow, wait_until_visible
from store.topics import APPLY_LOCK_TIMEOUT_S, topic_of, wanted_topics

PARTITIONS_MAX = 1024
EPOCHS_MAX = (1 << 16) - 1


@dataclass(frozen=True)
class Plan:
    """What would be done. `deltas_from` is what the deltas topic has now."""

    ending: Epoch
    number: int
    topic: str
    partitions: int
    deltas_from: int
    deltas_to: int
    rules_version: int


@dataclass(frozen=True)
class Repartitioned:
    """The epoch that has ended, with its ends, and the one that has begun."""

    ended: Epoch
    begun: Epoch


def plan(settings: Settings, partitions: int) -> Plan:
    """What `repartition` would do. Raises MeterlineExit where it would refuse."""
    with kafka_answers(settings), postgres_answers(settings), postgres.connect(settings) as connection:
        return _plan(connection, kafka.admin(settings), settings, partitions)


def repartition(settings: Settings, partitions: int, by: str) -> Repartitioned:
    """Ends the running epoch and begins the next one. Safe to repeat after any failure: all or nothing is recorded."""
    options = f"-c statement_timeout={APPLY_LOCK_TIMEOUT_S * 1000} -c TimeZone=UTC"
    with kafka_answers(settings), postgres_answers(settings), postgres.connect(settings, options=options) as connection:
        # 1.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.TOPICS,))
        admin = kafka.admin(settings)
        wanted = _plan(connection, admin, settings, partitions)
        events, deltas = _wanted(settings, all_epochs(connection), wanted)
        create(admin, [events])
        alter(admin, {events.topic: events.config_at(events.replication)})  # it may have been there, made by somebody's client
        if wanted.deltas_from < wanted.deltas_to:
            grow(admin, {deltas.topic: wanted.deltas_to})
        state, starts = wait_until_visible(admin, [events, deltas], events.topic)
        # 2.
        connection.execute(CHANGE_RULES)
        # 3.
        old = wanted.ending
        ends = topic_state.log_ends(admin, old.topic, old.partitions)
        # 4.
        begun = Epoch(wanted.number, state.topic, state.cluster_id, state.topic_id, state.partitions, tuple(starts), None)
        end_epoch(connection, old.epoch, ends)
        begin_epoch(connection, begun, in_force(connection, old))
        before = {"topic": old.topic, "partitions": old.partitions, "ends": ends}
        after = {"topic": begun.topic, "partitions": begun.partitions, "starts": starts}
        audit.record(connection, by, [audit.Entry("epoch.begun", f"epoch {begun.epoch}", before, after)])
    return Repartitioned(replace(old, ends=tuple(ends)), begun)


def _plan(connection: Connection[Any], admin: AdminClient, settings: Settings, partitions: int) -> Plan:
    epochs = all_epochs(connection)
    if not epochs:
        raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
    current = epochs[-1]
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise MeterlineExit(Exit.USAGE, f"{partitions} partitions: a topic has 1 to {PARTITIONS_MAX}")
    if partitions == current.partitions:
        raise MeterlineExit(Exit.FAILED, f"{current.topic} has {partitions} partitions already: there is nothing to do")
    if current.epoch == EPOCHS_MAX:
        raise MeterlineExit(Exit.FAILED, f"epoch {EPOCHS_MAX} is the last: a row version has 16 bits for it")
    _check_counted_to_its_end(connection, epochs[:-1])
    number = current.epoch + 1
    topic = topic_of(settings, number)
    states = topic_state.describe(admin, [current.topic, topic, settings.topic_deltas])
    check_topic(states[current.topic], current)
    there, deltas = states[topic], states[settings.topic_deltas]
    if there is not None and there.partitions != partitions:
        raise MeterlineExit(
            Exit.TOPIC_REPLACED,
            f"topic {topic} exists with {there.partitions} partitions and belongs to no epoch: it may be left from a try to go "
            f"over to {there.partitions}. Delete it when nobody has written to it, or repartition to {there.partitions}",
        )
    if there is not None and any(topic_state.log_ends(admin, topic, partitions)):
        raise MeterlineExit(
            Exit.TOPIC_REPLACED,
            f"topic {topic} belongs to no epoch and holds records, stamped who knows how: find out who writes there, "
            "and delete it; what was meant for us has to be sent again",
        )
    if deltas is None:
        raise MeterlineExit(Exit.TOPIC_SETTINGS, f"topic {settings.topic_deltas} is gone: run `meterline topics apply` first")
    wanted = max(deltas.partitions, partitions)
    return Plan(current, number, topic, partitions, deltas.partitions, wanted, in_force(connection, current))


def _check_counted_to_its_end(connection: Connection[Any], ended: Sequence[Epoch]) -> None:
    """One change at a time: an epoch that waits for the one before it must not end as well."""
    for epoch in ended:
        for fence in read_fences(connection, epoch.epoch):
            if epoch.ends is not None and fence.next_offset < epoch.ends[fence.partition]:
                raise MeterlineExit(
                    Exit.FAILED,
                    f"epoch {epoch.epoch} is not counted to its end (partition {fence.partition} stands at {fence.next_offset}"
                    f" of {epoch.ends[fence.partition]}): wait, and see that consumers and the aggregator run",
                )


def _wanted(settings: Settings, epochs: Sequence[Epoch], plan: Plan) -> tuple[Wanted, Wanted]:
    """The events topic of the next epoch, and the deltas topic that both epochs share."""
    by_name = {topic.declaration.name: topic for topic in wanted_topics(settings, epochs)}
    events, deltas = by_name[EVENTS], by_name[DELTAS]
    return (
        Wanted(events.declaration, plan.topic, plan.partitions, events.replication, events.config),
        Wanted(deltas.declaration, deltas.topic, plan.deltas_to, deltas.replication, deltas.config),
    )
