"""A connection that swallows bytes hangs a process for ever; its watchdog notices, and the next one goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from runtime.exits import Exit
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, wait_until
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.test_consume_crashes import publish

QUICK = {"stalled_after_s": "5", "clickhouse_timeout_s": "3", "postgres_timeout_s": "2", "range_window_ms": "5"}
"""They leave after ten seconds of standing still."""


@pytest.fixture
def postgres_line(migrated: Settings) -> Iterator[tuple[TcpProxy, dict[str, str]]]:
    """A way to Postgres that can be made to swallow, and the setting that takes it."""
    url = urlsplit(migrated.postgres_url.get_secret_value())
    assert url.hostname is not None
    assert url.port is not None
    with TcpProxy(url.hostname, url.port) as proxy:
        secret = SecretStr(url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}")).geturl())
        yield proxy, {"postgres_url": secret.get_secret_value()}


def test_a_consumer_and_an_aggregator_that_hang_leave_and_the_next_ones_finish_the_work(
    migrated: Settings, postgres_line: tuple[TcpProxy, dict[str, str]], tmp_path: Path
) -> None:
    line, over = postgres_line
    with Pipeline(migrated, tmp_path) as pipeline:
        consumer, aggregator = pipeline.consume(**QUICK, **over), pipeline.aggregate(**QUICK, **over)
        publish(pipeline, 0)
        pipeline.settle()
        assert (consumer.poll(), aggregator.poll()) == (None, None)
        line.stall()
        publish(pipeline, 1)
        for child in (consumer, aggregator):
            assert pipeline.wait_for_end(child) == Exit.STALLED, child.tail()
            assert "stood still" in child.logged()
        # What the network swallowed must not keep the locks of the dead: these two take another way.
        pipeline.consume(**QUICK)
        pipeline.aggregate(**QUICK)
        pipeline.settle()
        pipeline.assert_exact()


def test_nobody_leaves_while_idle_or_while_a_store_is_known_to_be_away(
    migrated: Settings, postgres_line: tuple[TcpProxy, dict[str, str]], tmp_path: Path
) -> None:
    line, over = postgres_line
    with Pipeline(migrated, tmp_path) as pipeline:
        consumer, aggregator = pipeline.consume(**QUICK, **over), pipeline.aggregate(**QUICK, **over)
        publish(pipeline, 2)
        pipeline.settle()
        line.cut()
        publish(pipeline, 3)
        # Longer than the bound: the tries are counted by the clock, a pause between them is two seconds at most.
        wait_until(
            "both go on asking for Postgres",
            lambda: min(_tries(child.logged()) for child in (consumer, aggregator)) > 9,
            45.0,
        )
        assert (consumer.poll(), aggregator.poll()) == (None, None), consumer.tail() + aggregator.tail()
        line.restore()
        pipeline.settle()
        pipeline.assert_exact()
        assert (consumer.poll(), aggregator.poll()) == (None, None), consumer.tail() + aggregator.tail()


def _tries(log: str) -> int:
    return log.count("trying again") + log.count("the log's end was not sampled")
