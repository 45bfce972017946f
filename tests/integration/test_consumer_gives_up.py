"""A store that stays away for longer than patience ends the process, and with it all that it had decided and not stored."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from runtime.exits import Exit
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.test_consume_crashes import event, publish


def test_what_was_decided_and_never_stored_is_decided_again_by_the_next_one(migrated: Settings, tmp_path: Path) -> None:
    url = urlsplit(migrated.clickhouse_url)
    assert url.hostname is not None
    assert url.port is not None
    with TcpProxy(url.hostname, url.port) as line, Pipeline(migrated, tmp_path) as pipeline:
        pipeline.aggregate()
        consumer = pipeline.consume(
            clickhouse_url=url._replace(netloc=f"127.0.0.1:{line.port}").geturl(), retry_give_up_s="1", range_window_ms="5"
        )
        publish(pipeline, 0)
        pipeline.settle()
        line.cut()
        for number in range(200):
            # Nothing of these is known yet, so that the deciding thread has nothing to ask ClickHouse for.
            pipeline.send_event(f"new-{number}", event(f"new-{number}"))
        pipeline.flush()
        assert pipeline.wait_for_end(consumer, 20.0) == Exit.UNREACHABLE, consumer.tail()
        line.restore()
        pipeline.consume()
        # Repeats of what was decided and not stored: they are duplicates of rows that must be there.
        for number in range(200):
            pipeline.send_event(f"new-{number}", event(f"new-{number}"))
        publish(pipeline, 1)
        pipeline.settle()
        pipeline.assert_exact()
