"""`meterline topics retire EPOCH`: the topic of an ended epoch takes no more records, and nothing of it is forwarded.

1. Close it: the broker refuses every record from then on, so that none can be acknowledged and then not be counted. A
   producer that still sends there is told so; the SDK keeps what it sends in its spool, for the topic that it is moved to.
2. Wait until everything in it is forwarded, for SETTLE_S at least: brokers learn of step 1 within moments of each other.
   If that does not come about, open it again and refuse.
3. Write down that it is retired, with the audit trail.

The topic stays until Kafka's retention has emptied it: a restored ClickHouse may want to read it again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka.admin import AdminClient
from psycopg import Connection

from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import audit, topic_state
from store.declarations import EVENTS
from store.epochs import Epoch, all_epochs, check_topic, forwarded
from store.remedies import kafka_answers, postgres_answers
from store.topic_changes import alter
from store.topics import wanted_topics

FORWARDED_WITHIN_S = 60.0
SETTLE_S = 3.0
_LOOK_EVERY_S = 0.2
_SIZE_MAX = "max.message.bytes"
CLOSED: Final = "0"
"""As the largest record that the broker takes."""


@dataclass(frozen=True)
class Standing:
    """An ended epoch's topic: its end, how far it is forwarded, and where the log ends now, by partition."""

    epoch: Epoch
    forwarded: tuple[int, ...]
    log_ends: tuple[int, ...]

    @property
    def late(self) -> int:
        """Records that came past the end so far."""
        return sum(self.log_ends) - sum(self.epoch.ends or ())

    @property
    def waiting(self) -> int:
        """Of these, what is not forwarded yet."""
        return sum(max(0, end - at) for end, at in zip(self.log_ends, self.forwarded, strict=True))


def standing(settings: Settings, number: int) -> Standing:
    """How an ended epoch stands. Raises MeterlineExit when it is not one that can be retired."""
    with kafka_answers(settings), postgres_answers(settings), postgres.connect(settings) as connection:
        epoch = _epoch(connection, number)
        admin = kafka.admin(settings)
        state = topic_state.describe(admin, [epoch.topic])[epoch.topic]
        check_topic(state, epoch)
        return _standing(connection, admin, epoch)


def retire(settings: Settings, number: int, by: str, within_s: float = FORWARDED_WITHIN_S) -> Standing:
    """Closes the topic, waits until it is forwarded, and writes down that it is retired."""
    found = standing(settings, number)
    epoch = found.epoch
    with kafka_answers(settings), postgres_answers(settings), postgres.connect(settings) as connection:
        connection.autocommit = True
        admin = kafka.admin(settings)
        # 1.
        alter(admin, {epoch.topic: {_SIZE_MAX: CLOSED}})
        # 2.
        closed_at, pause = time.monotonic(), threading.Event()
        deadline = closed_at + within_s
        while (found := _standing(connection, admin, epoch)).waiting or time.monotonic() < closed_at + SETTLE_S:
            if time.monotonic() >= deadline:
                alter(admin, {epoch.topic: {_SIZE_MAX: _open(settings, connection)}})
                raise MeterlineExit(
                    Exit.FAILED,
                    f"{found.waiting} late records of epoch {number} were not forwarded within {within_s:g} s, so it goes on: "
                    "see that a consumer runs (it forwards), and try again",
                )
            pause.wait(_LOOK_EVERY_S)
        # 3.
        with connection.transaction():
            connection.execute("UPDATE epochs SET retired_at = now() WHERE epoch = %s AND retired_at IS NULL", (number,))
            after = {"topic": epoch.topic, "forwarded": list(found.forwarded)}
            audit.record(connection, by, [audit.Entry("epoch.retired", f"epoch {number}", None, after)])
    return found


def _open(settings: Settings, connection: Connection[Any]) -> str:
    events = next(topic for topic in wanted_topics(settings, all_epochs(connection)) if topic.declaration.name == EVENTS)
    return events.config[_SIZE_MAX]


def _epoch(connection: Connection[Any], number: int) -> Epoch:
    epochs = {epoch.epoch: epoch for epoch in all_epochs(connection)}
    epoch = epochs.get(number)
    if epoch is None:
        raise MeterlineExit(Exit.USAGE, f"there is no epoch {number}; `meterline topics show` lists them")
    if epoch.ends is None:
        raise MeterlineExit(
            Exit.FAILED, f"epoch {number} goes on; it ends when the next one begins (`meterline topics repartition`)"
        )
    if epoch.retired:
        raise MeterlineExit(Exit.FAILED, f"epoch {number} is retired already: there is nothing to do")
    return epoch


def _standing(connection: Connection[Any], admin: AdminClient, epoch: Epoch) -> Standing:
    # The log first: what is forwarded later than it was read is not missed.
    ends = topic_state.log_ends(admin, epoch.topic, epoch.partitions)
    return Standing(epoch, tuple(forwarded(connection, epoch.epoch)), tuple(ends))
