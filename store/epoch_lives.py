"""How each epoch stands, for people: decided and counted how far, and what of it is still forwarded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import Connection

from runtime import kafka, postgres
from runtime.settings import Settings
from store.epochs import Epoch, all_epochs, forwarded, unretired
from store.fences import read_fences
from store.remedies import postgres_answers
from store.topic_state import log_ends


@dataclass(frozen=True)
class Life:
    """An epoch. `to_count` and `to_forward` are records; None where Kafka did not say, or there is nothing to forward from."""

    epoch: Epoch
    to_count: int | None
    to_forward: int | None

    @property
    def state(self) -> str:
        """goes on, ending (not counted to its end), forwarding (late records may come), retired."""
        if self.epoch.ends is None:
            return "goes on"
        if self.epoch.retired:
            return "retired"
        return "ending" if self.to_count else "forwarding"

    def line(self) -> str:
        """For people."""
        text = f"epoch {self.epoch.epoch}: {self.epoch.topic}, {self.epoch.partitions} partitions, {self.state}"
        if self.to_count:
            text += f", {self.to_count} records to count"
        if self.to_forward:
            text += f", {self.to_forward} late records to forward"
        return text

    def as_json(self) -> dict[str, Any]:
        epoch = self.epoch
        return {
            "epoch": epoch.epoch,
            "topic": epoch.topic,
            "partitions": epoch.partitions,
            "state": self.state,
            "starts": epoch.starts,
            "ends": epoch.ends,
            "to_count": self.to_count,
            "to_forward": self.to_forward,
        }


def lives(settings: Settings) -> list[Life]:
    """Every epoch, oldest first."""
    with postgres_answers(settings), postgres.connect(settings) as connection:
        admin = kafka.admin(settings)
        return [_life(connection, admin, epoch) for epoch in all_epochs(connection)]


def late_waiting(connection: Connection[Any], admin: AdminClient) -> int:
    """Records that came to the topics of ended epochs past their ends, and are not forwarded. Raises KafkaException."""
    return sum(
        _distance(forwarded(connection, epoch.epoch), log_ends(admin, epoch.topic, epoch.partitions))
        for epoch in unretired(all_epochs(connection))
    )


def waiting(connection: Connection[Any], admin: AdminClient) -> int:
    """Records of ended epochs that are not counted, or not forwarded; without those that Kafka would have to tell of."""
    return sum(
        (life.to_count or 0) + (life.to_forward or 0)
        for life in (_life(connection, admin, epoch) for epoch in unretired(all_epochs(connection)))
    )


def _life(connection: Connection[Any], admin: AdminClient, epoch: Epoch) -> Life:
    if epoch.retired:
        return Life(epoch, 0, 0)
    try:
        log = log_ends(admin, epoch.topic, epoch.partitions)
    except KafkaException:  # what the stores say is worth telling without it
        log = None
    counted = [fence.next_offset for fence in read_fences(connection, epoch.epoch)]
    ends = list(epoch.ends) if epoch.ends is not None else log
    to_count = None if ends is None else _distance(counted, ends)
    if epoch.ends is None or log is None:
        return Life(epoch, to_count, None)
    return Life(epoch, to_count, _distance(forwarded(connection, epoch.epoch), log))


def _distance(at: list[int], ends: list[int]) -> int:
    return sum(max(0, end - position) for position, end in zip(at, ends, strict=True))
