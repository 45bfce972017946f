"""`meterline emit` as a person runs it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meterline_schemas.instants import format_instant
from runtime.kafka import consumer
from runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def _emit(
    kafka: str, topic: str, *arguments: str, stdin: bytes = b"", spool: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], "METERLINE_KAFKA_URL": kafka, "METERLINE_TOPIC_EVENTS": topic}
    if spool is not None:
        environment["METERLINE_SPOOL_DIR"] = str(spool)
    command = [sys.executable, "-c", "from cli.main import main; main()", "emit", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, input=stdin, capture_output=True, timeout=60, check=False)


def _log_size(settings: Settings) -> int:
    from confluent_kafka import TopicPartition

    reader = consumer(settings, **{"group.id": "size"})
    try:
        partitions = reader.list_topics(settings.topic_events, timeout=10).topics[settings.topic_events].partitions
        return sum(reader.get_watermark_offsets(TopicPartition(settings.topic_events, p), timeout=10)[1] for p in partitions)
    finally:
        reader.close()


def test_the_example_file_is_acknowledged_line_by_line(migrated: Settings) -> None:
    before = _log_size(migrated)
    done = _emit(migrated.kafka_url, migrated.topic_events, "examples/events.ndjson", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    lines = len((ROOT / "examples" / "events.ndjson").read_text().splitlines())
    assert {name: summary[name] for name in ("lines", "acked", "spooled", "bad", "not_acked")} == {
        "lines": lines, "acked": lines, "spooled": 0, "bad": 0, "not_acked": 0,
    }  # fmt: skip
    assert _log_size(migrated) == before + lines


def test_bad_lines_are_named_and_the_rest_is_sent(migrated: Settings) -> None:
    before = _log_size(migrated)
    good = b'{"tenantId":"t","sourceService":"s","sourceEntityId":"%d","usageType":"T","quantity":"1"}\n'
    late = json.dumps({**json.loads(good % 9), "occurredAt": format_instant(time.time_ns() // 1_000_000 - 401 * 86_400_000)})
    text = good % 1 + b"{}\n\n" + b"x" * 10_000_000 + b"\n" + b"\xff\xfe\n" + late.encode() + b"\n" + (good % 2).rstrip()
    done = _emit(migrated.kafka_url, migrated.topic_events, "-", stdin=text)
    assert done.returncode == 1
    told = done.stderr.decode()
    for wanted in ("line 2: missing_field", "line 4: too_large", "line 5: not_utf8", "line 6: too_old"):
        assert wanted in told
    assert b"6 lines: 2 acknowledged, 0 spooled, 4 bad, 0 not acknowledged" in done.stdout
    assert _log_size(migrated) == before + 2


def test_without_kafka_it_says_so_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        done = _emit(address, "usage.events", "examples/events.ndjson", "--timeout", "1")
        assert done.returncode == 4
        assert b"METERLINE_KAFKA_URL" in done.stderr
        assert b"UNREACHABLE" in done.stderr
        spooled = _emit(address, "usage.events", "examples/events.ndjson", "--timeout", "1", "--spool", "--json", spool=tmp_path)
    assert spooled.returncode == 1
    assert json.loads(spooled.stdout)["spooled"] == json.loads(spooled.stdout)["lines"]
    assert list((tmp_path / "usage.events").glob("*.segment"))


def test_a_topic_that_does_not_exist_is_named(migrated: Settings) -> None:
    done = _emit(migrated.kafka_url, "no.such.topic", "examples/events.ndjson", "--timeout", "2")
    assert done.returncode == 4
    assert b"no.such.topic" in done.stderr


@pytest.mark.parametrize("file", ["no-such-file.ndjson"])
def test_a_file_that_does_not_exist_is_a_usage_error(file: str) -> None:
    assert _emit("127.0.0.1:1", "usage.events", file).returncode == 2
