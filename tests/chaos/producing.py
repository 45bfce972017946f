"""One producer of a chaos run: `python -m tests.chaos.producing`, started by the driver and killed by it at will.

It sends its records in order and writes down each acknowledgement. Started again, it goes on behind the last record that
was acknowledged, and so sends again what was on its way: an equal repeat, as a service that was restarted sends it.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import time
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, Message

from runtime import kafka
from runtime.life import Stop
from runtime.settings import load_settings
from tests.chaos.acks import Ack, AckFile, read_acks
from tests.chaos.traffic import HEADER, Traffic

_SENT = struct.Struct("<Q")
_TICK_S = 0.02
_FLUSH_S = 60.0


def sent_count(path: Path) -> int:
    """How many records were handed to the client, in all lives of the producer."""
    return int(_SENT.unpack(path.read_bytes())[0]) if path.exists() else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--producer", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--began-ms", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="records a second")
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    asked = _arguments()
    settings = load_settings(dict(os.environ))
    stop = Stop.install()
    acks_path, sent_path = asked.folder / f"acks-{asked.producer}", asked.folder / f"sent-{asked.producer}"
    number = max((ack.number for ack in read_acks(acks_path)), default=-1) + 1
    sent, sent_file = sent_count(sent_path), os.open(sent_path, os.O_WRONLY | os.O_CREAT, 0o600)
    acks, traffic = AckFile(acks_path), Traffic(asked.seed, asked.began_ms)
    # Patient beyond any fault: what the client gave up would be sent by nobody.
    producer = kafka.producer(settings, **{"delivery.timeout.ms": 600_000, "queue.buffering.max.messages": 20_000})

    def delivered(number: int, error: KafkaError | None, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            sys.stderr.write(f"record {number} was not taken: {error}\n")
            return
        acks.add(Ack(number, partition, offset))

    began, first = time.monotonic(), sent
    while not stop.is_set():
        due = int((time.monotonic() - began) * asked.rate) - (sent - first)
        for _ in range(min(due, 2_000)):
            made = traffic.record(asked.producer, number)
            where = {"partition": number % asked.partitions} if made.astray else {}
            try:
                producer.produce(
                    settings.topic_events,
                    value=made.value,
                    key=made.key,
                    headers=[(HEADER, f"{asked.producer}:{number}".encode())],
                    on_delivery=partial(delivered, number),
                    **where,
                )
            except BufferError:
                break
            except KafkaException as error:
                sys.stderr.write(f"the client gave up: {error}\n")
                return 1
            number, sent = number + 1, sent + 1
        producer.poll(0)
        acks.flush()
        os.pwrite(sent_file, _SENT.pack(sent), 0)
        stop.wait(_TICK_S)
    left = producer.flush(_FLUSH_S)
    acks.flush()
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
