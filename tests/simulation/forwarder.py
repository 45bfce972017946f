"""The forwarding of late records: the product's `Forwarder`, a batch at a time, against logs in memory.

What it reads, in which order it sends and notes, and what it sends are the product's; it dies where the schedule says.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from confluent_kafka import KafkaError

from consumers.forwarding import Forwarded, Forwarder
from metering.records import Record
from tests.simulation.violation import Crash
from tests.simulation.workload import RULES_BY_VERSION

if TYPE_CHECKING:
    from tests.simulation.world import World

_BATCH_MAX = 5


class _Message:
    """A record, or the end of the log, as the Kafka client gives it."""

    def __init__(self, topic: str, partition: int, offset: int, record: Record | None) -> None:
        self._at, self._record = (topic, partition, offset), record

    def error(self) -> KafkaError | None:
        return None if self._record is not None else KafkaError(KafkaError._PARTITION_EOF)

    def topic(self) -> str:
        return self._at[0]

    def partition(self) -> int:
        return self._at[1]

    def offset(self) -> int:
        return self._at[2]

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return self._record.value if self._record is not None else None

    def headers(self) -> tuple[tuple[str, bytes], ...]:
        return self._record.headers if self._record is not None else ()

    def timestamp(self) -> tuple[int, int]:
        return 2, self._record.timestamp_ms if self._record is not None else 0


class SteppedForwarder(Forwarder):
    """Never started: batches are asked for here."""

    def __init__(self, world: World) -> None:
        super().__init__(cast(Any, None), threading.Event())
        self._world, self._random = world, world.random

    def step(self) -> None:
        """A batch of one partition from where forwarding stands; it may die in the middle."""
        stores = self._world.stores
        ended, current = stores.ledger.epochs
        log = stores.logs[0]
        partition = int(self._random.random() * ended.partitions)
        at = stores.ledger.forwarded[partition]
        records, behind = log.read(partition, at, 1 + int(self._random.random() * _BATCH_MAX))
        messages = [_Message(ended.topic, partition, record.offset, record) for record in records]
        if behind == len(log.partitions[partition]):
            messages.append(_Message(ended.topic, partition, behind, None))
        rules = RULES_BY_VERSION[max(version for _, version in stores.ledger.rules_from[2][0])]
        try:
            self._pass_on(cast(Any, stores.ledger), cast(Any, messages), {ended.topic: ended}, current, rules)
        except Crash:
            self._world.say("forwarding dies between two records", None)
        else:
            if records:
                self._world.say(f"forwarded {len(records)} late records of partition {partition}", None)

    def _send(self, topic: str, records: Sequence[Forwarded]) -> None:
        log = self._world.stores.logs[1]
        for record in records:
            if not self._world.stores.calm and self._random.random() < 0.1:
                raise Crash("forwarding")
            log.write(record.partition, record.value, record.headers)
