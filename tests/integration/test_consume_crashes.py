"""Killed at every point of the chain, again and again, consumer and aggregator both: not one number changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded.processes import Child
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, wait_until

NOW = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - 86_400))
FEW, ROUNDS_MAX = 20, 10
CONSUMER_POINTS = ("decided", "inserting", "stored", "announcing", "announced", "committed")


def event(entity: str, quantity: str = "1.25", tenant: str = "tnt_1", **over: object) -> bytes:
    fields = {
        "tenantId": tenant,
        "sourceService": "worker",
        "sourceEntityId": entity,
        "usageType": "PHOTO",
        "quantity": quantity,
        "occurredAt": NOW,
    }
    return json.dumps(fields | over).encode()


@pytest.fixture
def pipeline(migrated: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(migrated, tmp_path) as running:
        yield running


def publish(pipeline: Pipeline, round_number: int, count: int = 300) -> None:
    """New events, repeats of this round's and earlier ones, conflicts, differing duplicates and bad bytes."""
    for number in range(count):
        entity = f"r{round_number}-{number}"
        pipeline.send_event(entity, event(entity, tenant=f"tnt_{number % 7}"))
        if number % 10 == 0:
            pipeline.send_event(entity, event(entity, tenant=f"tnt_{number % 7}"))
        if number % 25 == 0:
            pipeline.send_event(entity, event(entity, "2", tenant=f"tnt_{number % 7}"))
            pipeline.send_event(entity, event(entity, "1.250", tenant=f"tnt_{number % 7}"))
            pipeline.send(b'{"tenantId": ', partition=number % pipeline.partitions)
        if round_number and number % 5 == 0:
            earlier = f"r{min(round_number - 1, len(CONSUMER_POINTS))}-{number}"  # a later round may have too few to repeat
            pipeline.send_event(earlier, event(earlier, tenant=f"tnt_{number % 7}"))
    pipeline.flush()


def count_until_killed(pipeline: Pipeline, aggregator: Child, first_round: int) -> int:
    """Sends a few events at a time until the aggregator has died at its point; returns how many rounds it took.

    How many ranges it merges into one commit is its own affair: a slow start may leave it a single one, and no second.
    """
    for rounds in range(ROUNDS_MAX):
        wait_until("all is counted, or it was killed", lambda: aggregator.poll() is not None or pipeline.settled(), within_s=60)
        if aggregator.poll() is not None:
            return rounds
        publish(pipeline, first_round + rounds, FEW)
    raise AssertionError(f"not killed in {ROUNDS_MAX} rounds: {aggregator.tail()}")


def test_killed_at_every_point_of_the_chain_nothing_is_lost_or_doubled(pipeline: Pipeline) -> None:
    aggregators = [pipeline.aggregate("aggregator.before_commit:2")]
    for number, point in enumerate(CONSUMER_POINTS):
        publish(pipeline, number)
        consumer = pipeline.consume(f"consumer.{point}:{1 + number % 2}", range_events_max="200", range_window_ms="5")
        assert pipeline.wait_for_end(consumer) == -9, consumer.tail()
        if aggregators[-1].poll() == -9 and len(aggregators) == 1:
            aggregators.append(pipeline.aggregate("aggregator.after_commit:2"))
    publish(pipeline, len(CONSUMER_POINTS))
    consumer = pipeline.consume()
    more = count_until_killed(pipeline, aggregators[-1], len(CONSUMER_POINTS) + 1)
    if len(aggregators) == 1:
        aggregators.append(pipeline.aggregate("aggregator.after_commit:1"))
        more += count_until_killed(pipeline, aggregators[-1], len(CONSUMER_POINTS) + 1 + more)
    assert [pipeline.wait_for_end(aggregator) for aggregator in aggregators] == [-9, -9]
    aggregator = pipeline.aggregate()
    publish(pipeline, len(CONSUMER_POINTS) + 1 + more)  # for this one to count: it listens to signals by then
    pipeline.settle()
    truth = pipeline.assert_exact()
    assert truth.total().admitted == 300 * (len(CONSUMER_POINTS) + 2) + FEW * more
    assert min(truth.total().duplicate, truth.total().conflict, truth.total().invalid) > 0
    for child in (consumer, aggregator):
        child.ask_to_stop()
    assert [pipeline.wait_for_end(consumer), pipeline.wait_for_end(aggregator)] == [0, 0]
    wait_until("nothing moves after the end", pipeline.settled)
