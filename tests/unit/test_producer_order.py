"""What goes to disk lies there in the order of emitting, whoever is faster."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

from meterline import EventDraft, Producer
from meterline.spool import Spool
from meterline_schemas.key import dedup_key


class _Hesitant(threading.Condition):
    """Whoever has polled gives everybody else a long turn each time that it lets go of the lock."""

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        if threading.current_thread().name == "meterline-poll":
            time.sleep(0.05)


def test_an_event_that_is_emitted_while_kafka_is_found_away_lies_behind_all_that_were_emitted_before(tmp_path: Path) -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{refusing.getsockname()[1]}"
        with Producer(nowhere, "usage.events", spool_dir=tmp_path, delivery_timeout_s=0.3) as producer:
            producer._state = _Hesitant()
            first, number = producer.emit(_draft(0)), 0
            while not first.done():
                number += 1
                producer.emit(_draft(number))
                time.sleep(0.005)
            assert producer.flush(10) == 0
    spool = Spool(tmp_path / "usage.events", 1 << 20)
    segments = sorted((tmp_path / "usage.events").glob("*.segment"))
    kept = [record.key for segment in segments for record in spool.read(segment).records]
    assert kept == [dedup_key("analysis-worker", f"job-{n}", "PHOTO") for n in range(number + 1)]


def _draft(number: int) -> EventDraft:
    return EventDraft("tnt_1", "analysis-worker", f"job-{number}", "PHOTO", 1)
