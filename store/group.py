"""What the consumer group has committed, read from outside of the group."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from meterline_schemas.delta import CommitNote, parse_commit
from runtime.kafka import REQUEST_TIMEOUT_S
from store.topic_state import answer


@dataclass(frozen=True)
class GroupPosition:
    """A committed offset and the note beside it; `note` is None when the text is not about this offset."""

    offset: int
    metadata: str
    note: CommitNote | None


def committed(admin: AdminClient, group: str, topic: str, epoch: int, partitions: int) -> dict[int, GroupPosition]:
    """The group's positions by partition; a partition without a commit is absent. Raises KafkaException."""
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition) for partition in range(partitions)])
    (future,) = admin.list_consumer_group_offsets([asked], request_timeout=REQUEST_TIMEOUT_S).values()
    found: dict[int, GroupPosition] = {}
    for part in answer(future).topic_partitions:
        if part.offset < 0:
            continue
        text = part.metadata or ""
        try:
            note: CommitNote | None = parse_commit(text)
        except ValueError:
            note = None
        if note is not None and not note.matches(epoch, part.offset):
            note = None
        found[part.partition] = GroupPosition(part.offset, text, note)
    return found
