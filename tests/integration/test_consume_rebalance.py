"""Partitions that change hands while records arrive: the numbers do not notice."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from deploy.embedded.processes import Child
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.test_consume_crashes import publish

DYNAMIC = {"consumer_instance": "", "range_window_ms": "5", "range_events_max": "100"}
"""A member without an id of its own: its partitions move as soon as it leaves."""


def caught_up(pipeline: Pipeline, second: Child, position: int) -> bool:
    return sum(pipeline.committed().values()) >= position or "partition taken" in second.logged()


def test_a_second_consumer_joins_and_leaves_under_load_and_every_number_is_exact(migrated: Settings, tmp_path: Path) -> None:
    with Pipeline(migrated, tmp_path) as pipeline:
        first = pipeline.consume(**DYNAMIC)
        pipeline.aggregate()
        # Else the second could be quicker and take them all, and nothing would have to change hands.
        wait_until("the first has taken them all", lambda: first.logged().count("partition taken") == pipeline.partitions)
        publish(pipeline, 0, 1_000)
        second = pipeline.consume(**DYNAMIC)
        rounds, deadline = 1, time.monotonic() + 45.0
        while "partition taken" not in second.logged():
            assert time.monotonic() < deadline, f"no partition came over\n{first.tail()}\n{second.tail()}"
            already = sum(pipeline.ends())
            publish(pipeline, rounds, 50)
            rounds += 1
            # In step with the consumer, so that records arrive during all of the hand-over and not only before it.
            wait_until("what came before is committed", partial(caught_up, pipeline, second, already))
        publish(pipeline, rounds, 300)
        second.ask_to_stop()
        publish(pipeline, rounds + 1, 300)
        assert pipeline.wait_for_end(second) == 0, second.tail()
        publish(pipeline, rounds + 2, 300)
        pipeline.settle()
        pipeline.assert_exact()
        assert first.poll() is None, first.tail()
        taken = first.logged().count("partition taken")
        assert taken > pipeline.partitions, "what came back was built anew"
        first.ask_to_stop()
        assert pipeline.wait_for_end(first) == 0, first.tail()
