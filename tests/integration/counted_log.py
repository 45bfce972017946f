"""A log that is decided, stored, committed and counted within the test, by the functions that the stages run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, TopicPartition

from consumers.polling import headers_of
from consumers.ports import DeltaTopic
from metering.index import CommittedIndex
from metering.ranges import Decided, Pending, decide, suspects
from metering.reading import read
from metering.records import Record, Records, Span
from meterline_schemas.delta import Figures, encode_commit
from meterline_schemas.rules import RULES
from meterline_schemas.types import Epoch, Offset, Partition
from runtime import clickhouse, kafka, postgres
from runtime.settings import Settings
from store import event_log, topic_state
from store.epochs import current_epoch
from store.fences import add_lines, move_fence, read_fences
from tests.fakes.pipeline import Pipeline


class CountedLog:
    """Publishes through a Pipeline; `advance` does what the consumer and the aggregator would do."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self.settings, self.pipeline = settings, pipeline
        self._admin = kafka.admin(settings)
        with postgres.connect(settings) as connection:
            epoch = current_epoch(connection)
        assert epoch is not None
        self.epoch = epoch
        self._decided: dict[int, tuple[int, Figures]] = {p: (start, Figures()) for p, start in enumerate(epoch.starts)}
        self._index = {p: CommittedIndex() for p in range(epoch.partitions)}
        self._uncounted: list[Decided] = []
        self._deltas = DeltaTopic(lambda: kafka.producer(settings), settings.topic_deltas)

    def advance(self, *, count: bool = True, commit: bool = True) -> None:
        """Decides and stores what is in the log; then commits it, and counts it and what was left uncounted before."""
        self.pipeline.flush()
        records = self._new_records()
        ends = self.pipeline.ends()
        cycle = []
        client = clickhouse.client(self.settings)
        for partition, (at, figures) in sorted(self._decided.items()):
            if ends[partition] == at:
                continue
            span = Span(Epoch(1), Partition(partition), Offset(at), Offset(ends[partition]), Records.of(records[partition]))
            readings = read(span, RULES[1], self.epoch.partitions)
            wanted = suspects(readings, self._index[partition], Pending()).hashes
            decided = decide(readings, RULES[1], Pending(), event_log.confirm(client, wanted), figures)
            self._index[partition].add(decided.ranked)
            self._decided[partition] = (ends[partition], decided.figures)
            cycle.append(decided)
        event_log.insert(client, event_log.admitted_rows(cycle), event_log.reject_rows(cycle))
        client.close()
        self._deltas.announce(cycle)
        if commit:
            self.commit({p: at for p, (at, _) in self._decided.items()})
        self._uncounted += cycle
        if count:
            self._count()

    def _count(self) -> None:
        with postgres.connect(self.settings) as connection:
            fences = {fence.partition: fence for fence in read_fences(connection, 1)}
            for decided in self._uncounted:
                add_lines(connection, decided.delta.lines)
                fence = fences[decided.span.partition]
                move_fence(connection, replace(fence, next_offset=decided.span.to_offset, figures=decided.figures))
        self._uncounted = []

    def commit(self, offsets: Mapping[int, int], metadata: str | None = None) -> None:
        """Sets the group's offsets, with the note that belongs there unless another is given."""
        wanted = [
            TopicPartition(
                self.epoch.topic,
                partition,
                offset,
                encode_commit(1, offset, 1, self._decided[partition][1]) if metadata is None else metadata,
            )
            for partition, offset in offsets.items()
        ]
        request = ConsumerGroupTopicPartitions(self.settings.consumer_group, wanted)
        (future,) = self._admin.alter_consumer_group_offsets([request]).values()
        assert all(part.error is None for part in topic_state.answer(future).topic_partitions)

    def _new_records(self) -> dict[int, list[Record]]:
        found: dict[int, list[Record]] = defaultdict(list)
        consumer = kafka.consumer(self.settings, **{"group.id": "counted-log"})
        consumer.assign([TopicPartition(self.epoch.topic, p, at) for p, (at, _) in self._decided.items()])
        open_partitions, deadline = set(self._decided), time.monotonic() + 30
        while open_partitions:
            assert time.monotonic() < deadline, "the log cannot be read"
            for message in consumer.consume(1_000, 0.2):
                partition, offset, error = message.partition(), message.offset(), message.error()
                assert partition is not None
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error.str()
                    open_partitions.discard(partition)
                    continue
                assert offset is not None
                record = Record(Offset(offset), message.value(), message.key(), headers_of([message])[0], message.timestamp()[1])
                found[partition].append(record)
        consumer.close()
        return found
