"""`meterline topics`: the declared topics against those of the cluster, and the beginning of epoch 1.

Consumers never create an epoch: what is counted from where is written here, once, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from confluent_kafka.admin import AdminClient

from meterline_schemas.rules import NEWEST_RULES
from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from runtime.settings import Settings
from store.declarations import DELTAS, EVENTS, Wanted, load_declarations, wanted
from store.epochs import Epoch, all_epochs, begin_epoch, check_topic
from store.remedies import kafka_answers, postgres_answers
from store.topic_changes import alter, create, grow, wait_until_visible
from store.topic_state import TopicState, describe

APPLY_LOCK_TIMEOUT_S = 120

_PARTITIONS = "partitions"

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
        epochs = all_epochs(connection)
    topics = wanted_topics(settings, epochs)
    with kafka_answers(settings):
        states = describe(kafka.admin(settings), [topic.topic for topic in topics])
    return _compare(settings, topics, states, epochs)


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
        epochs = all_epochs(connection)
        topics = wanted_topics(settings, epochs)
        admin = kafka.admin(settings)
        differences = _compare(settings, topics, describe(admin, [topic.topic for topic in topics]), epochs)
        refused = [difference for difference in differences if difference.action == "refuse"]
        if refused:
            raise MeterlineExit(Exit.TOPIC_SETTINGS, "; ".join(difference.line() for difference in refused))
        # 3.
        settle(admin, topics, differences)
        events = next(topic for topic in topics if topic.declaration.name == EVENTS)
        state, starts = wait_until_visible(admin, topics, events.topic)
        # 4.
        begun = not epochs
        if epochs:
            epoch = epochs[-1]
        else:
            epoch = Epoch(1, state.topic, state.cluster_id, state.topic_id, state.partitions, tuple(starts), None)
            begin_epoch(connection, epoch, NEWEST_RULES)
        check_topic(state, epoch)
    return Applied(
        [difference for difference in differences if difference.action in ("create", "alter")],
        [difference for difference in differences if difference.action == "by hand"],
        epoch,
        begun,
    )


def settle(admin: AdminClient, topics: list[Wanted], differences: Iterable[Difference]) -> None:
    """Creates, grows and alters what the differences say. Raises KafkaException."""
    absent = {difference.topic for difference in differences if difference.action == "create"}
    create(admin, [topic for topic in topics if topic.topic in absent])
    changes = [difference for difference in differences if difference.action == "alter"]
    grow(admin, {change.topic: int(change.wanted) for change in changes if change.what == _PARTITIONS})
    config: dict[str, dict[str, str]] = {}
    for change in changes:
        if change.what != _PARTITIONS:
            config.setdefault(change.topic, {})[change.what] = change.wanted
    alter(admin, config)


def topic_of(settings: Settings, epoch: int) -> str:
    """The name of the events topic in an epoch."""
    return settings.topic_events if epoch == 1 else f"{settings.topic_events}.{epoch}"


def wanted_topics(settings: Settings, epochs: Sequence[Epoch]) -> list[Wanted]:
    """Every topic as it should stand: the events topic is the newest epoch's, and no epoch has more partitions than deltas."""
    topics = [wanted(declaration, settings) for declaration in load_declarations()]
    names = [topic.topic for topic in topics]
    if len(set(names)) != len(names):
        raise MeterlineExit(Exit.SETTINGS, f"two topics have one name ({', '.join(names)}); set METERLINE_TOPIC_* apart")
    if not epochs:
        return topics
    newest = epochs[-1]
    name = topic_of(settings, newest.epoch)
    if newest.topic != name:
        raise MeterlineExit(
            Exit.SETTINGS,
            f"METERLINE_TOPIC_EVENTS leads to topic {name}, and epoch {newest.epoch} of this database lives in {newest.topic}; "
            "set METERLINE_TOPIC_EVENTS back, or METERLINE_POSTGRES_URL to the database of that topic",
        )
    deltas = max(epoch.partitions for epoch in epochs)
    found = []
    for topic in topics:
        if topic.declaration.name == EVENTS:
            # Of a later epoch, the partitions are those that it was begun with.
            found.append(replace(topic, topic=name, partitions=topic.partitions if newest.epoch == 1 else newest.partitions))
        else:
            found.append(replace(topic, partitions=deltas) if topic.declaration.name == DELTAS else topic)
    return found


def _compare(
    settings: Settings, topics: list[Wanted], states: dict[str, TopicState | None], epochs: Sequence[Epoch]
) -> list[Difference]:
    differences: list[Difference] = []
    epoch = epochs[-1] if epochs else None
    if epoch is not None and epoch.epoch > 1 and settings.topic_partitions != epoch.partitions:
        differences.append(_other_setting(settings, epoch))
    for topic in topics:
        state = states[topic.topic]
        if topic.declaration.name == EVENTS and epoch is not None:
            # A wrong setting can be altered back; another topic cannot be.
            check_topic(state if state is None else _with_needed(state, topic), epoch)
        if state is None:
            differences.append(Difference(topic.topic, "topic", "absent", f"{topic.partitions} partitions", "create"))
            continue
        if not topic.has_enough(state.partitions):
            found, count = str(state.partitions), str(topic.partitions)
            if topic.at_least:
                differences.append(Difference(topic.topic, _PARTITIONS, found, count, "alter"))
            else:
                differences.append(Difference(topic.topic, _PARTITIONS, found, count, "refuse", _remedy(topic, state)))
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


def _other_setting(settings: Settings, epoch: Epoch) -> Difference:
    return Difference(
        epoch.topic, _PARTITIONS, str(epoch.partitions), str(settings.topic_partitions), "by hand",
        f"set METERLINE_TOPIC_PARTITIONS={epoch.partitions}, or begin the next epoch with `meterline topics repartition "
        f"{settings.topic_partitions}`",
    )  # fmt: skip


def _remedy(topic: Wanted, state: TopicState) -> str:
    setting = topic.declaration.partitions.setting
    if setting is None:
        return f"delete {topic.topic} and run `meterline topics apply`"
    return (
        f"set METERLINE_{setting.upper()}={state.partitions}; a topic that holds events gets other partitions only as a new "
        "epoch (`meterline topics repartition`)"
    )
