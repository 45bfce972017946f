"""A topic that refuses an event for its size, and a disk that takes no more: told at once, and everything else goes on."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.embedded.stack import StackAddresses
from meterline import EventDraft, EventTooLarge, Producer
from meterline.spool import read_frames


def draft(number: int, noise_bytes: int = 0) -> EventDraft:
    noise = random.Random(number).randbytes(noise_bytes // 2).hex()
    return EventDraft("tnt_123", "analysis-worker", f"job-{number}", "PHOTO", 1, metadata={"noise": noise})


@pytest.fixture(scope="module")
def small_topic(stack: StackAddresses) -> str:
    name = f"usage.events.{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    admin.create_topics([NewTopic(name, 1, 1, config={"max.message.bytes": "4096"})])[name].result(timeout=20)
    return name


@pytest.mark.parametrize("client", [{}, {"message.max.bytes": 4096}], ids=["by the topic", "by the client"])
def test_an_event_that_is_too_large_is_refused_at_once_and_the_next_ones_go_on(
    stack: StackAddresses, small_topic: str, tmp_path: Path, client: dict[str, Any]
) -> None:
    config = {"bootstrap.servers": stack.kafka, **client}
    with Producer(config, small_topic, spool_dir=tmp_path, delivery_timeout_s=20) as producer:
        receipts = [producer.emit(draft(0)).result(timeout=30)]
        began = time.monotonic()
        with pytest.raises(EventTooLarge, match=r"max\.bytes|Message size too large|refuses"):
            producer.emit(draft(1, 20_000)).result(timeout=30)
        assert time.monotonic() - began < 15
        receipts.append(producer.emit(draft(2)).result(timeout=30))
    # Never spooled: it would be refused again and again, and hold up what comes behind it.
    assert [receipt.state for receipt in receipts] == ["acked", "acked"]
    assert list(tmp_path.glob("*.segment")) == []


EMIT_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from meterline import SpoolBroken
from meterline.spool import Spool, SpooledRecord

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
spool = Spool(Path(sys.argv[1]), 1 << 30)
for number in range(100):
    try:
        spool.append([SpooledRecord(b"key-%d" % number, b"x" * 1_000, [])])
    except SpoolBroken as broken:
        print(number, broken)
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append([SpooledRecord(b"after", b"y", [])])
spool.close()
"""


def test_a_disk_that_takes_no_more_is_told_and_what_it_took_is_kept(tmp_path: Path) -> None:
    """A real process whose files the kernel lets grow no further, in the middle of a frame."""
    done = subprocess.run(
        [sys.executable, "-c", EMIT_ON_A_FULL_DISK, str(tmp_path), "10500"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    number, told = done.stdout.split(" ", 1)
    assert "File too large" in told
    assert str(tmp_path) in told
    kept = [record.key for path in sorted(tmp_path.glob("*.segment")) for record in read_frames(path.read_bytes()).records]
    assert 5 < int(number) < 11
    assert kept == [*(b"key-%d" % earlier for earlier in range(int(number))), b"after"]
    assert all(read_frames(path.read_bytes()).damaged_bytes == 0 for path in tmp_path.glob("*.segment"))
