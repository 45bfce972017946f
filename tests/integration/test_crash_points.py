"""Where the named crash points lie. That each is reached by a real process: test_consume_crashes, test_export_cli."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runtime import clickhouse
from runtime.crash import CRASH_POINTS
from runtime.settings import Settings
from store import event_log
from tests.fakes.pipeline import ROOT, wait_until
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.test_event_log import decided
from tests.unit.records import body, entities

EXACTNESS = ROOT / "docs" / "exactness.md"


class Died(Exception):
    """In place of a kill."""


def test_the_point_within_an_insert_is_passed_when_half_of_the_rows_are_on_the_wire(migrated: Settings) -> None:
    url = urlsplit(migrated.clickhouse_url)
    assert url.hostname is not None
    assert url.port is not None
    rows = event_log.admitted_rows([decided(0, [body(entity) for entity in entities(0, 2_000)])])
    none = event_log.reject_rows(())
    with TcpProxy(url.hostname, url.port) as line:
        over = {"clickhouse_url": url._replace(netloc=f"127.0.0.1:{line.port}").geturl()}
        client = clickhouse.client(migrated.model_copy(update=over))
        quiet, passed = line.sent_bytes, threading.Event()

        def die() -> None:
            # The proxy's thread may be a moment behind what left the process.
            wait_until("half of the insert on the wire", lambda: line.sent_bytes - quiet > rows.nbytes // 3)
            assert line.sent_bytes - quiet < rows.nbytes * 2 // 3, "more than a half had left already"
            passed.set()
            raise Died

        with pytest.raises(Died):
            event_log.insert(client, rows, none, die)
        assert passed.is_set()
        client.close()
    with clickhouse.client(migrated) as client:
        (stored,) = client.query("SELECT count() FROM usage_events").result_rows
        assert stored[0] == 0, "half an insert is none"
        event_log.insert(client, rows, none, lambda: None)
        (stored,) = client.query("SELECT count() FROM usage_events").result_rows
        assert stored[0] == 2_000


def test_the_manual_names_the_crash_points_that_there_are() -> None:
    listed = re.search(r"^Crash points: (.*?)\.$", EXACTNESS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert listed is not None
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", listed[1]))
    assert named == CRASH_POINTS


def test_every_crash_point_is_one_that_some_test_kills_a_real_process_at() -> None:
    tests = sorted(Path(__file__).parents[1].glob("*/test_*.py"))
    killers = [path.read_text("utf-8") for path in tests if path != Path(__file__)]
    for point in CRASH_POINTS:
        stage, _, moment = point.partition(".")
        kills = [text for text in killers if "-9" in text or "SIGKILL" in text or "wait_killed" in text]
        assert any((stage in text and f'"{moment}"' in text) or point in text for text in kills), point
