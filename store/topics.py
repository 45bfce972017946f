"""`meterline topics`: the declared topics against those of the cluster, and the beginning of epoch 1.

Consumers never create an epoch: what is counted from where is written here, once, in one transaction.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from meterline_schemas.rules import NEWEST_RULES
from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.kafka import REQUEST_TIMEOUT_S
from runtime.life import Backoff, Stop
from runtime.locks import AdvisoryLock
from runtime.settings import Settings
from store.declarations import DELTAS, EVENTS, Wanted, load_declarations, wanted
from store.epochs import Epoch, begin_epoch, check_topic, current_epoch
from store.remedies import kafka_answers, postgres_answers
from store.topic_state import TopicState, answer, describe, log_starts

APPLY_LOCK_TIMEOUT_S = 120
VISIBLE_WITHIN_S = 30.0
"""How long a created topic may take until every partition has a leader that answers."""

_NOT_YET = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._TIMED_OUT,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
"""What a broker says of a topic that has just been made."""

Action = Literal["create", "alter", "refuse", "by hand"]


@dataclass(frozen=True)
class Difference:
    """One thing in which the cluster differs from a declaration, and what `apply` does about it.

    `refuse` stops `apply`; `by hand` is only told, for a running topic's replicas are moved with Kafka's own tools.
    """

    topic: str
    what: str
    found: str
    wanted: str
    action: Action
    remedy: str = ""

    def line(self) -> str:
        """For people."""
        text = f"{self.topic}: {self.what}: {self.found} -> {self.wanted}  [{self.action}]"
        return f"{text}  {self.remedy}" if self.remedy else text


@dataclass(frozen=True)
class Applied:
    """What `apply` did: the differences it settled, those left to people, and whether it began epoch 1."""

    changed: list[Difference]
    left: list[Difference]
    epoch: Epoch
    epoch_begun: bool


def plan(settings: Settings) -> list[Difference]:
    """The differences, nothing changed. Raises MeterlineExit when Kafka is away or the topic is not its epoch's."""
    with postgres_answers(settings), postgres.connect(settings) as connection:
        epoch = current_epoch(connection)
    topics = _wanted_topics(settings, epoch)
    with kafka_answers(settings):
        states = describe(kafka.admin(settings), [topic.topic for topic in topics])
    return _compare(topics, states, epoch)


def apply(settings: Settings) -> Applied:
    """Creates and alters topics, then begins epoch 1 unless an epoch stands. Repeating it changes nothing.

    1. takes the lock, so that a second `apply` waits and then finds nothing to do;
    2. refuses, before it touches anything, when the topic of the epoch is gone, replaced, or has other partitions;
    3. creates and alters, and waits until every partition has a leader;
    4. writes the epoch with its fences and rules, in the transaction that holds the lock.
    """
    options = f"-c statement_timeout={APPLY_LOCK_TIMEOUT_S * 1000} -c TimeZone=UTC"
    with kafka_answers(settings), postgres_answers(settings), postgres.connect(settings, options=options) as connection:
        # 1.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.TOPICS,))
        # 2.
        epoch = current_epoch(connection)
        topics = _wanted_topics(settings, epoch)
        admin = kafka.admin(settings)
        differences = _compare(topics, describe(admin, [topic.topic for topic in topics]), epoch)
        refused = [difference for difference in differences if difference.action == "refuse"]
        if refused:
            raise MeterlineExit(Exit.TOPIC_SETTINGS, "; ".join(difference.line() for difference in refused))
        # 3.
        _create(admin, topics, {difference.topic for difference in differences if difference.action == "create"})
        _alter(admin, [difference for difference in differences if difference.action == "alter"])
        events = next(topic for topic in topics if topic.declaration.name == EVENTS)
        state, starts = _wait_until_visible(admin, topics, events)
        # 4.
        begun = epoch is None
        if epoch is None:
            epoch = Epoch(1, state.topic, state.cluster_id, state.topic_id, state.partitions, tuple(starts), None)
            begin_epoch(connection, epoch, NEWEST_RULES)
        check_topic(state, epoch)
    return Applied(
        [difference for difference in differences if difference.action in ("create", "alter")],
        [difference for difference in differences if difference.action == "by hand"],
        epoch,
        begun,
    )


def _wanted_topics(settings: Settings, epoch: Epoch | None) -> list[Wanted]:
    topics = [wanted(declaration, settings) for declaration in load_declarations()]
    names = [topic.topic for topic in topics]
    if len(set(names)) != len(names):
        raise MeterlineExit(Exit.SETTINGS, f"two topics have one name ({', '.join(names)}); set METERLINE_TOPIC_* apart")
    if epoch is None:
        return topics
    name = settings.topic_events if epoch.epoch == 1 else f"{settings.topic_events}.{epoch.epoch}"
    if epoch.topic != name:
        raise MeterlineExit(
            Exit.SETTINGS,
            f"METERLINE_TOPIC_EVENTS leads to topic {name}, and epoch {epoch.epoch} of this database lives in {epoch.topic}; "
            "set METERLINE_TOPIC_EVENTS back, or METERLINE_POSTGRES_URL to the database of that topic",
        )
    return [
        topic
        if topic.declaration.name != EVENTS
        else Wanted(topic.declaration, name, topic.partitions, topic.replication, topic.config)
        for topic in topics
    ]


def _compare(topics: list[Wanted], states: dict[str, TopicState | None], epoch: Epoch | None) -> list[Difference]:
    differences: list[Difference] = []
    for topic in topics:
        state = states[topic.topic]
        if topic.declaration.name == EVENTS and epoch is not None:
            # A wrong setting can be altered back; another topic cannot be.
            check_topic(state if state is None else _with_needed(state, topic), epoch)
        if state is None:
            differences.append(Difference(topic.topic, "topic", "absent", f"{topic.partitions} partitions", "create"))
            continue
        if state.partitions != topic.partitions:
            differences.append(
                Difference(
                    topic.topic, "partitions", str(state.partitions), str(topic.partitions), "refuse", _remedy(topic, state)
                )
            )
        if state.replication != topic.replication:
            differences.append(
                Difference(
                    topic.topic, "replication", str(state.replication), str(topic.replication), "by hand",
                    f"move them with kafka-reassign-partitions, or set METERLINE_TOPIC_REPLICATION={state.replication}",
                )
            )  # fmt: skip
        differences.extend(
            Difference(topic.topic, name, state.config.get(name, "unset"), value, "alter")
            for name, value in topic.config_at(state.replication).items()
            if state.config.get(name) != value
        )
    return differences


def _with_needed(state: TopicState, topic: Wanted) -> TopicState:
    return TopicState(
        state.topic, state.cluster_id, state.topic_id, state.partitions, state.replication, {**state.config, **topic.config}
    )


def _remedy(topic: Wanted, state: TopicState) -> str:
    setting = topic.declaration.partitions.setting
    if topic.declaration.name == DELTAS:
        return (
            "as many as the events topic has are needed: stop the consumers and the aggregator, let it count to the end, delete "
            f"{topic.topic}, and run `meterline topics apply` (deltas that are lost are recomputed)"
        )
    if setting is None:
        return f"delete {topic.topic} and run `meterline topics apply`"
    return (
        f"set METERLINE_{setting.upper()}={state.partitions}; a topic that holds events gets other partitions only as a new "
        "epoch (`meterline topics repartition`)"
    )


def _create(admin: AdminClient, topics: list[Wanted], absent: set[str]) -> None:
    new = [
        NewTopic(
            topic.topic,
            num_partitions=topic.partitions,
            replication_factor=topic.replication,
            config=topic.config_at(topic.replication),
        )
        for topic in topics
        if topic.topic in absent
    ]
    if not new:
        return
    for future in admin.create_topics(new, operation_timeout=REQUEST_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S).values():
        try:
            answer(future)
        except KafkaException as error:
            # A client's auto-creation may have been quicker; the wait below then finds its partitions and settings.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def _alter(admin: AdminClient, differences: list[Difference]) -> None:
    by_topic: dict[str, list[ConfigEntry]] = {}
    for difference in differences:
        entry = ConfigEntry(difference.what, difference.wanted, incremental_operation=AlterConfigOpType.SET)
        by_topic.setdefault(difference.topic, []).append(entry)
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries) for topic, entries in by_topic.items()]
    if resources:
        for future in admin.incremental_alter_configs(resources, request_timeout=REQUEST_TIMEOUT_S).values():
            answer(future)


def _wait_until_visible(admin: AdminClient, topics: list[Wanted], events: Wanted) -> tuple[TopicState, list[int]]:
    """The events topic and its log's starts, once every topic stands as wanted. Raises KafkaException when it takes too long."""
    backoff, pause, until = Backoff(0.05, 1.0), Stop(), time.monotonic() + VISIBLE_WITHIN_S
    while True:
        try:
            states = describe(admin, [topic.topic for topic in topics])
            waiting = [
                topic.topic
                for topic in topics
                if (state := states[topic.topic]) is None
                or state.partitions != topic.partitions
                or any(state.config.get(name) != value for name, value in topic.config_at(state.replication).items())
            ]
            state = states[events.topic]
            if not waiting and state is not None:
                return state, log_starts(admin, events.topic, state.partitions)
            problem = KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{', '.join(waiting)} not as wanted"))
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise
            problem = error
        if time.monotonic() >= until:
            raise problem
        pause.wait(backoff.wait_s())
