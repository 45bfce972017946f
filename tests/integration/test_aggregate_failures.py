"""Faust acknowledges a batch however it ends. No way out of it may leave a range committed and uncounted.

| where it fails | what becomes of it |
|---|---|
| decoding a delta, whatever is raised | passed over; the next delta, or the reconciler, counts its range |
| the transaction, an error of Postgres | rolled back, repeated in place |
| counting, an error that nobody foresaw | the process leaves before Faust can acknowledge |
| counting hangs and the process is told to stop | it leaves with UNREACHABLE after its bound |
| the loop body behind the counting | counted already; what Faust acknowledges or repeats is skipped or healed |
| Faust's own commit | read again at the next start, and skipped by position |
| a rebalance in the middle of a batch | both count under the fence row's lock; whoever comes second skips |
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from deploy.embedded.processes import Child
from runtime.exits import Exit
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.test_consume_crashes import publish


@pytest.fixture(scope="module")
def pipeline(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One log and one consumer for all cases."""
    with Pipeline(migrated, tmp_path_factory.mktemp("failures")) as running:
        running.consume(range_window_ms="5", range_events_max="100")
        yield running


def committed_up_to(pipeline: Pipeline, position: int) -> bool:
    return sum(pipeline.committed().values()) >= position


ROUNDS = iter(range(1_000))


def failing(pipeline: Pipeline, place: str, call: int) -> Child:
    """An aggregator that has come to its failure."""
    aggregator = pipeline.start(
        "aggregate",
        program=("tests.fakes.failing_aggregate", place, str(call)),
        aggregator_instance="a1",
        stop_within_s="5",
    )
    publish(pipeline, next(ROUNDS), 150)
    wait_until(f"the failure at {place}\n{aggregator.tail()}", lambda: f"failing at {place}" in aggregator.logged(), 45.0)
    return aggregator


def the_next_one_counts_it_all(pipeline: Pipeline) -> None:
    """What the failed one left is counted once."""
    aggregator = pipeline.aggregate()
    pipeline.settle()
    pipeline.assert_exact()
    aggregator.kill()


@pytest.mark.parametrize("place", ["decode", "transaction", "note", "commit"])
def test_what_the_process_survives_is_counted_in_the_end(pipeline: Pipeline, place: str) -> None:
    aggregator = failing(pipeline, place, 1)
    pipeline.settle()
    pipeline.assert_exact()
    assert aggregator.poll() is None, aggregator.tail()
    aggregator.kill()


def test_an_error_that_nobody_foresaw_ends_the_process_before_the_batch_is_acknowledged(pipeline: Pipeline) -> None:
    aggregator = failing(pipeline, "count", 1)
    assert pipeline.wait_for_end(aggregator) == Exit.FAILED
    assert "an unforeseen error while counting" in aggregator.logged()
    the_next_one_counts_it_all(pipeline)


def test_told_to_stop_while_a_batch_hangs_it_leaves_in_time_and_says_that_it_was_not_counted(pipeline: Pipeline) -> None:
    aggregator = failing(pipeline, "hang", 1)
    aggregator.ask_to_stop()
    assert pipeline.wait_for_end(aggregator) == Exit.UNREACHABLE
    assert "read again at the next start" in aggregator.logged()
    the_next_one_counts_it_all(pipeline)


def test_a_rebalance_in_the_middle_of_batches_counts_each_delta_once(pipeline: Pipeline) -> None:
    # Both without an id of their own: each that comes or leaves moves all partitions.
    first = pipeline.aggregate(aggregator_instance="", aggregator_batch_max="2")
    publish(pipeline, next(ROUNDS), 400)
    second = pipeline.aggregate(aggregator_instance="", aggregator_batch_max="2")
    for _ in range(6):
        already = sum(pipeline.ends())
        publish(pipeline, next(ROUNDS), 100)
        wait_until("what came before is committed", partial(committed_up_to, pipeline, already))
    publish(pipeline, next(ROUNDS), 200)
    first.kill()
    publish(pipeline, next(ROUNDS), 200)
    pipeline.settle()
    pipeline.assert_exact()
    assert second.poll() is None, second.tail()
