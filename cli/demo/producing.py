"""One producer process of the demonstration: an upstream service with the SDK, and a foreign client beside it.

`python -m cli.demo.producing --share N --events M --seed S --now T --hold FILE`: sends three quarters, waits until FILE
exists, sends the rest, and ends with one line of JSON: what the broker acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

from confluent_kafka import KafkaError, Message

from cli.demo.traffic import Broken, share
from meterline import EventDraft, Producer, Receipt
from runtime import kafka
from runtime.settings import load_settings

BATCH = 1000
HELD_AT_MOST_S = 60.0


def main() -> int:
    """The exit status: 0 when every record was acknowledged."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--now", type=datetime.fromisoformat, required=True)
    parser.add_argument("--hold", type=Path, required=True)
    arguments = parser.parse_args()
    settings = load_settings(dict(os.environ))
    records = share(arguments.share, arguments.events, arguments.seed, arguments.now)
    acked = foreign_acked = 0

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        nonlocal foreign_acked
        foreign_acked += error is None

    foreign = kafka.producer(settings)
    with Producer(
        kafka.librdkafka_config(settings), settings.topic_events, spool_dir=settings.spool_dir / str(os.getpid())
    ) as sdk:
        for number, batch in enumerate(_batches(records)):
            if number * BATCH >= arguments.events * 3 // 4:
                _wait_for(arguments.hold)
            for record in batch:
                if isinstance(record, Broken):
                    foreign.produce(settings.topic_events, key=b"foreign", value=record.value, on_delivery=on_delivery)
            answers = sdk.emit_many(record for record in batch if isinstance(record, EventDraft))
            acked += sum(isinstance(answer, Receipt) and answer.state == "acked" for answer in answers)
            foreign.poll(0)
    foreign.flush(kafka.REQUEST_TIMEOUT_S)
    sys.stdout.write(json.dumps({"share": arguments.share, "acked": acked + foreign_acked}) + "\n")
    return 0 if acked + foreign_acked == arguments.events else 1


def _batches(records: Iterator[EventDraft | Broken]) -> Iterator[list[EventDraft | Broken]]:
    while batch := list(islice(records, BATCH)):
        yield batch


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + HELD_AT_MOST_S
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
