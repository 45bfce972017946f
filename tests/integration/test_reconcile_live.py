"""Reconcile beside a real consumer and aggregator under load, repairs included: never a word of drift."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.settings import Settings
from store.reconcile import reconcile
from tests.fakes.pipeline import Pipeline
from tests.integration.test_consume_crashes import event, publish

ROUNDS = 6


@pytest.fixture
def pipeline(migrated: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(migrated, tmp_path) as running:
        yield running


def test_a_system_under_load_is_in_order_at_every_moment_and_a_repair_does_not_disturb_it(pipeline: Pipeline) -> None:
    pipeline.consume(range_events_max="100", range_window_ms="5")
    pipeline.aggregate()
    pipeline.send_event("first", event("first"))
    pipeline.flush()
    pipeline.settle()
    sent, problems = threading.Event(), list[BaseException]()

    def load() -> None:
        try:
            for round_number in range(ROUNDS):
                publish(pipeline, round_number)
        except BaseException as error:  # noqa: BLE001 - told by the test itself
            problems.append(error)
        finally:
            sent.set()

    loading = threading.Thread(target=load)
    loading.start()
    looks = 0
    while not sent.is_set() or looks < 4:
        report = reconcile(pipeline.settings, repair_as="tester" if looks % 2 else None, sample=100)
        assert report.ok, report.as_json()
        assert report.healed is None or report.healed.counters == report.healed.totals == 0
        looks += 1
    loading.join(60)
    assert problems == []
    pipeline.settle()
    pipeline.assert_exact()
    final = reconcile(pipeline.settings, patience_s=0)
    assert final.ok
    assert "at rest" in next(check.detail for check in final.checks if check.invariant == "I5")
    assert pipeline.postgres("SELECT count(*) FROM audit WHERE what = 'counters.repaired'") == [(0,)]
    assert pipeline.wait_for_end(pipeline.start("reconcile")) == 0
    pipeline.postgres("UPDATE usage_totals SET quantity = 0 RETURNING 1")
    assert pipeline.wait_for_end(pipeline.start("reconcile")) == 1
    # Each run left its outcome, with I9 among it, for the metric that the aggregator shows.
    runs = pipeline.postgres("SELECT ok, findings FROM reconcile_runs ORDER BY id")
    assert [ok for ok, _ in runs] == [True, False]
    assert set(runs[0][1]) == {"I1", "I2", "I3", "I4", "I5", "I6", "I9", "I10"}
    assert runs[1][1]["I4"] > 0
