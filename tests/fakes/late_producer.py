"""A producer that does not hear of a new epoch: it goes on sending to the topic that it knows, on a thread of its own."""

from __future__ import annotations

import threading
from typing import NamedTuple

from confluent_kafka import KafkaError, Message

from meterline_schemas.key import dedup_key, partition_of
from runtime import kafka
from runtime.settings import Settings


class Acked(NamedTuple):
    """Where the broker put an event, and when."""

    partition: int
    offset: int
    at_ms: int


def event_of(entity: str) -> bytes:
    """One without occurredAt: the time at which the log takes it stands for it."""
    return (
        b'{"tenantId":"tnt_1","sourceService":"worker","sourceEntityId":"%b","usageType":"PHOTO","quantity":"1"}'
        % entity.encode()
    )


class LateProducer:
    """Sends `<name>-0`, `<name>-1`, ... until stopped, some a second. `acked` maps each acknowledged entity to its record."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        partitions: int,
        name: str,
        every_s: float = 0.005,
        headers: tuple[tuple[str, str | bytes | None], ...] = (),
    ) -> None:
        self._producer = kafka.producer(settings)
        self._topic, self._partitions, self._name, self._every_s = topic, partitions, name, every_s
        self._headers = list(headers)
        self.acked: dict[str, Acked] = {}
        self.refused: list[KafkaError] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._number = 0

    def __enter__(self) -> LateProducer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert self._producer.flush(30) == 0

    def send(self, entity: str) -> None:
        """One event, beside those of the thread; acknowledged by the time that `flush` returns."""

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is not None:
                self.refused.append(error)
            elif partition is not None and offset is not None:
                self.acked[entity] = Acked(partition, offset, message.timestamp()[1])

        key = dedup_key("worker", entity, "PHOTO")
        to = partition_of(key, self._partitions)
        self._producer.produce(self._topic, event_of(entity), key, to, on_delivery, headers=self._headers)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.send(f"{self._name}-{self._number}")
            self._number += 1
            self._producer.poll(0)
