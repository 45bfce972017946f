"""What the consumer group has committed, read from outside of the group."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition

from meterline_schemas.delta import CommitNote, parse_commit
from runtime import kafka
from runtime.settings import Settings


@dataclass(frozen=True)
class GroupPosition:
    """A committed offset and the note beside it; `note` is None when the text is not about this offset."""

    offset: int
    metadata: str
    note: CommitNote | None


def onlooker(settings: Settings) -> Consumer:
    """A client with the group's id that never subscribes: it may ask for the group's offsets and is no member.

    Not the admin client's call for them: test processes died of segmentation faults around it while the coordinator was
    loading; the cause was not found. Close it after use; for one thread.
    """
    return kafka.consumer(settings, **{"group.id": settings.consumer_group})


def committed(onlooker: Consumer, topic: str, epoch: int, partitions: int) -> dict[int, GroupPosition]:
    """The group's positions by partition; a partition without a commit is absent. Raises KafkaException."""
    asked = [TopicPartition(topic, partition) for partition in range(partitions)]
    found: dict[int, GroupPosition] = {}
    for part in onlooker.committed(asked, timeout=kafka.REQUEST_TIMEOUT_S):
        if part.error is not None:
            raise KafkaException(part.error)
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
