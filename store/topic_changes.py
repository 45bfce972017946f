"""Changing topics on the cluster: made, altered, grown, and waited for until every broker that matters knows of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from runtime.kafka import REQUEST_TIMEOUT_S
from runtime.life import Backoff, Stop
from store.declarations import Wanted
from store.topic_state import TopicState, answer, describe, log_starts

VISIBLE_WITHIN_S = 30.0
"""How long a changed topic may take until every partition has a leader that answers."""

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


def create(admin: AdminClient, topics: Sequence[Wanted]) -> None:
    """Makes topics; one that is there already is left as it is. Raises KafkaException."""
    new = [
        NewTopic(
            topic.topic,
            num_partitions=topic.partitions,
            replication_factor=topic.replication,
            config=topic.config_at(topic.replication),
        )
        for topic in topics
    ]
    if not new:
        return
    for future in admin.create_topics(new, operation_timeout=REQUEST_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S).values():
        try:
            answer(future)
        except KafkaException as error:
            # A client's auto-creation may have been quicker; whoever waits then finds its partitions and settings.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def alter(admin: AdminClient, wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Sets topic -> name -> value. Raises KafkaException."""
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            topic,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()
            ],
        )
        for topic, config in wanted.items()
    ]
    if resources:
        for future in admin.incremental_alter_configs(resources, request_timeout=REQUEST_TIMEOUT_S).values():
            answer(future)


def grow(admin: AdminClient, partitions: Mapping[str, int]) -> None:
    """Gives each topic so many partitions, which must be more than it has. Raises KafkaException."""
    new = [NewPartitions(topic, count) for topic, count in partitions.items()]
    if new:
        for future in admin.create_partitions(
            new, operation_timeout=REQUEST_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S
        ).values():
            answer(future)


def wait_until_visible(admin: AdminClient, topics: Iterable[Wanted], events: str) -> tuple[TopicState, list[int]]:
    """The topic `events` and its log's starts, once all stand as wanted. Raises KafkaException when it takes too long."""
    wanted = list(topics)
    backoff, pause, until = Backoff(0.05, 1.0), Stop(), time.monotonic() + VISIBLE_WITHIN_S
    while True:
        try:
            states = describe(admin, [topic.topic for topic in wanted])
            waiting = [topic.topic for topic in wanted if not _stands(states[topic.topic], topic)]
            state = states[events]
            if not waiting and state is not None:
                return state, log_starts(admin, events, state.partitions)
            problem = KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{', '.join(waiting)} not as wanted"))
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise
            problem = error
        if time.monotonic() >= until:
            raise problem
        pause.wait(backoff.wait_s())


def _stands(state: TopicState | None, topic: Wanted) -> bool:
    return (
        state is not None
        and topic.has_enough(state.partitions)
        and all(state.config.get(name) == value for name, value in topic.config_at(state.replication).items())
    )
