"""Poison through the real topic, consumer and aggregator: it stops nothing, and each record gets exactly one verdict."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Message

from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline
from tests.fakes.poison import golden_bad, poison
from tests.integration.test_consume_crashes import event

STRINGS = 100_000


@pytest.mark.timeout(400)
def test_a_hundred_thousand_fuzzed_strings_and_every_golden_bad_example_stop_nothing(migrated: Settings, tmp_path: Path) -> None:
    dice = random.Random(5)
    sent: dict[tuple[int, int], bytes] = {}

    def remember(value: bytes | None) -> object:
        def delivered(error: KafkaError | None, message: Message) -> None:
            assert error is None
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            sent[partition, offset] = value or b""

        return delivered

    with Pipeline(migrated, tmp_path) as pipeline:
        consumer, aggregator = pipeline.consume(), pipeline.aggregate()
        for bad in (*golden_bad(), *poison(5, STRINGS)):
            pipeline.send(
                bad.value,
                bad.key,
                partition=dice.randrange(pipeline.partitions),
                headers=bad.headers,
                on_delivery=remember(bad.value),
            )
        pipeline.send_event("behind", event("behind"))
        pipeline.flush()
        pipeline.settle(within_s=180.0)
        truth = pipeline.assert_exact()
        assert (consumer.poll(), aggregator.poll()) == (None, None), consumer.tail() + aggregator.tail()
        total = truth.total()
        assert total.offsets == len(sent) + 1
        assert total.void == 0
        assert total.invalid > STRINGS // 2
        # I6, from what was sent and not from the log: the raw bytes of every reject.
        assert {at: raw for at, (_, raw) in truth.rejects.items()} == {at: sent[at] for at in truth.rejects}
        assert {row.entity for row in truth.rows.values()} >= {"behind"}
