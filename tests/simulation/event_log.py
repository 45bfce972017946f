"""`usage.events` in memory: LogAppendTime, and offsets that hold no record for a reader of committed transactions."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from metering.records import Record
from meterline_schemas.types import Offset
from tests.simulation.workload import BURSTS, DAY_MS, FIRST_MS, PARTITIONS, Headers, Message, draw

_RECORDS_A_DAY = 12


class EventLog:
    """`partitions[p][offset]` is the record there, None where there is none (a marker, or what was rolled back).

    The epoch starts at `starts`; what lies below is no concern of it.
    """

    def __init__(self, starts: Sequence[int] = (0,) * PARTITIONS, before: EventLog | None = None) -> None:
        """`before` is the log of the epoch before: the brokers' clock goes on."""
        self.starts = list(starts)
        self.partitions: list[list[Record | None]] = [[None] * start for start in starts]
        self.epoch: int = 1 if before is None else before.epoch + 1
        self._clock: list[int] = [0] if before is None else before._clock

    def append(self, partition: int, message: Message) -> None:
        self.write(partition, message.value, message.headers)

    def write(self, partition: int, value: bytes | None, headers: Headers) -> None:
        """A record, stamped with the brokers' time."""
        log = self.partitions[partition]
        timestamp_ms = FIRST_MS + self._clock[0] // _RECORDS_A_DAY * DAY_MS
        log.append(Record(Offset(len(log)), value, None, headers, timestamp_ms))
        self._clock[0] += 1

    def ends(self) -> list[int]:
        return [len(log) for log in self.partitions]

    def produce(self, random: Random) -> int:
        """A record or two, some in a transaction, which may be rolled back; now and then a burst. How many were written."""
        partition, message = draw(random, self.epoch)
        kind = random.random()
        self.append(partition, message)
        if kind < 0.75:
            return 1
        log = self.partitions[partition]
        if kind < 0.8:  # rolled back: its records and its marker are void
            log[-1] = None
            log.append(None)
            return 1
        self.append(*draw(random, self.epoch))
        if kind < 0.9:
            log.append(None)  # the marker of a committed transaction
        elif kind > 0.985:
            bursts = BURSTS[partition % PARTITIONS]
            for burst in bursts:
                self.append(partition if burst.next_home is None or self.epoch == 1 else burst.next_home, burst)
            return len(bursts)
        return 2

    def read(self, partition: int, position: int, records_max: int) -> tuple[list[Record], int]:
        """The next records from `position`, and the position behind them; the log's end when it is reached."""
        log = self.partitions[partition]
        found: list[Record] = []
        while position < len(log) and len(found) < records_max:
            record = log[position]
            if record is not None:
                found.append(record)
            position += 1
        while position < len(log) and log[position] is None:
            position += 1
        return found, position
