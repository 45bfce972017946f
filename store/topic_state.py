"""What the brokers say of topics. Asks only; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without saying so
    AdminClient,
    ConfigResource,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)

from runtime.kafka import REQUEST_TIMEOUT_S

_ANSWER_WITHIN_S = REQUEST_TIMEOUT_S + 5
"""The client gives up after REQUEST_TIMEOUT_S; this is for the case that it does not."""

_KNOWS_OLD_LEADERS = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError._NOENT,
    }
)


@dataclass(frozen=True)
class TopicState:
    """A topic as the cluster has it."""

    topic: str
    cluster_id: str
    topic_id: str
    partitions: int
    replication: int
    config: Mapping[str, str]


def answer(future: Any) -> Any:
    """A future's result within the time limit. Raises KafkaException."""
    try:
        return future.result(timeout=_ANSWER_WITHIN_S)
    except FutureTimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no answer within {_ANSWER_WITHIN_S:g} s")) from None


def describe(admin: AdminClient, topics: Sequence[str]) -> dict[str, TopicState | None]:
    """Each topic, or None for one that does not exist. Raises KafkaException when the cluster does not answer."""
    cluster = answer(admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S))
    described = admin.describe_topics(TopicCollection(list(topics)), request_timeout=REQUEST_TIMEOUT_S)
    states: dict[str, TopicState | None] = {}
    for topic, future in described.items():
        try:
            states[topic] = _state(admin, str(cluster.cluster_id), topic, answer(future))
        except KafkaException as error:
            # Said of the topic, or of its settings where it was deleted in between.
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            states[topic] = None
    return states


def _state(admin: AdminClient, cluster_id: str, topic: str, description: TopicDescription) -> TopicState:
    if any(partition.leader is None for partition in description.partitions):
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"{topic} has a partition without a leader"))
    return TopicState(
        topic=topic,
        cluster_id=cluster_id,
        topic_id=str(description.topic_id),
        partitions=len(description.partitions),
        replication=min(len(partition.replicas) for partition in description.partitions),
        config=_config(admin, topic),
    )


def _config(admin: AdminClient, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    (future,) = admin.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S).values()
    return {name: str(entry.value) for name, entry in answer(future).items() if entry.value is not None}


def partitions_of(admin: AdminClient, topic: str) -> int:
    """How many partitions a topic has. Raises KafkaException, also where there is no such topic."""
    found = admin.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return len(found.partitions)


def log_starts(admin: AdminClient, topic: str, partitions: int) -> list[int]:
    """The first offset that each partition still has. Raises KafkaException."""
    return _offsets(admin, topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def log_ends(admin: AdminClient, topic: str, partitions: int) -> list[int]:
    """The read_committed end of each partition: what a consumer can have read by now. Raises KafkaException."""
    return _offsets(admin, topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def _offsets(admin: AdminClient, topic: str, partitions: int, spec: Any) -> list[int]:
    try:
        return _ask_offsets(admin, topic, partitions, spec)
    except KafkaException as error:
        if error.args[0].code() not in _KNOWS_OLD_LEADERS:
            raise
    # A broker came back, and the client keeps asking for the leaders' former epochs until its metadata are old (15
    # minutes): an answer to list_offsets does not make it look again, as one to a fetch does.
    admin.list_topics(topic, timeout=REQUEST_TIMEOUT_S)
    return _ask_offsets(admin, topic, partitions, spec)


def _ask_offsets(admin: AdminClient, topic: str, partitions: int, spec: Any) -> list[int]:
    asked = {TopicPartition(topic, partition): spec for partition in range(partitions)}
    futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_TIMEOUT_S)
    offsets = {where.partition: int(answer(future).offset) for where, future in futures.items()}
    return [offsets[partition] for partition in range(partitions)]
