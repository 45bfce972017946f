"""What the log says, read afresh and judged without the product's codec: the first valid record of a key counts."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, TopicPartition

from meterline_schemas.delta import Figures
from meterline_schemas.key import partition_of, row_hash
from runtime import kafka
from runtime.settings import Settings
from tests.chaos.traffic import HEADER, Claim, Traffic

_READ_WITHIN_S = 30.0


@dataclass(frozen=True)
class Counted:
    """An admitted record, as the stores must hold it."""

    claim: Claim
    value_hash: int


@dataclass
class LogTruth:
    """By partition and position. `numbers` are the records of the producers where the log has them."""

    ends: list[int] = field(default_factory=list)
    figures: dict[int, Figures] = field(default_factory=dict)
    admitted: dict[tuple[int, int], Counted] = field(default_factory=dict)
    rejects: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    numbers: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    """Positions whose bytes are not those that were sent."""

    def counters(self) -> dict[tuple[str, str, int], tuple[int, int]]:
        """(tenant, usage type, day) -> (sum in millionths, events)."""
        sums: dict[tuple[str, str, int], tuple[int, int]] = {}
        for row in self.admitted.values():
            key = (row.claim.tenant, row.claim.usage_type, row.claim.day)
            quantity, events = sums.get(key, (0, 0))
            sums[key] = quantity + row.claim.quantity, events + 1
        return sums


def read_log(settings: Settings, traffic: Traffic) -> LogTruth:
    """Every record from the first to the end. Raises TimeoutError when the log cannot be read."""
    partitions = settings.topic_partitions
    reader: Consumer = kafka.consumer(settings, **{"group.id": "chaos-check", "auto.offset.reset": "earliest"})
    reader.assign([TopicPartition(settings.topic_events, partition, 0) for partition in range(partitions)])
    truth = LogTruth()
    counts: dict[int, Counter[str]] = {partition: Counter() for partition in range(partitions)}
    sums = dict.fromkeys(range(partitions), 0)
    first: dict[tuple[str, str], Counted] = {}
    ends: dict[int, int] = {}
    silent_since = time.monotonic()
    while len(ends) < partitions:
        messages = reader.consume(5_000, 0.5)
        if messages:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since > _READ_WITHIN_S:
            raise TimeoutError("the log could not be read to its end")
        for message in messages:
            partition, offset, error = message.partition(), message.offset(), message.error()
            assert partition is not None
            assert offset is not None
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise TimeoutError(f"the log could not be read: {error.str()}")
                ends[partition] = offset
                continue
            value, where = message.value() or b"", (partition, offset)
            producer, _, number = dict(message.headers() or [])[HEADER].decode().partition(":")  # type: ignore[union-attr]
            made = traffic.record(int(producer), int(number))
            truth.numbers[where] = int(producer), int(number)
            if made.value != value or made.key != message.key():
                truth.damaged.append(f"{partition}/{offset}")
            counted = Counted(made.claim, row_hash(value)) if made.claim is not None else None
            if counted is None or partition_of(made.key, partitions) != partition:
                verdict = "invalid"
            else:
                key = (counted.claim.entity, counted.claim.usage_type)
                earlier = first.setdefault(key, counted)
                verdict = "admitted" if earlier is counted else _again(earlier, counted)
                if verdict == "admitted":
                    truth.admitted[where] = counted
                    sums[partition] = (sums[partition] + counted.value_hash) % (1 << 64)
            counts[partition]["duplicate" if verdict == "differing" else verdict] += 1
            if verdict in ("invalid", "conflict", "differing"):
                truth.rejects[where] = ("duplicate" if verdict == "differing" else verdict), row_hash(value)
    reader.close()
    truth.ends = [ends[partition] for partition in range(partitions)]
    for partition, count in counts.items():
        void = ends[partition] - count.total()
        truth.figures[partition] = Figures(
            count["admitted"], count["duplicate"], count["conflict"], count["invalid"], void, sums[partition]
        )
    return truth


def _again(earlier: Counted, later: Counted) -> str:
    if (earlier.claim.tenant, earlier.claim.quantity) != (later.claim.tenant, later.claim.quantity):
        return "conflict"
    return "duplicate" if earlier.value_hash == later.value_hash else "differing"
