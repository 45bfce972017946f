"""`usage.events` in memory: LogAppendTime, and offsets that hold no record for a reader of committed transactions."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from metering.records import Record
from meterline_schemas.types import Offset
from tests.simulation.workload import BURSTS, DAY_MS, FIRST_MS, PARTITIONS, Message, draw

_RECORDS_A_DAY = 12


class EventLog:
    """`partitions[p][offset]` is the record there, None where there is none (a marker, or what was rolled back).

    The epoch starts at `starts`; what lies below is no concern of it.
    """

    def __init__(self, starts: Sequence[int] = (0,) * PARTITIONS) -> None:
        self.starts = list(starts)
        self.partitions: list[list[Record | None]] = [[None] * start for start in starts]
        self._appended = 0

    def append(self, partition: int, message: Message) -> None:
        log = self.partitions[partition]
        timestamp_ms = FIRST_MS + self._appended // _RECORDS_A_DAY * DAY_MS
        log.append(Record(Offset(len(log)), message.value, None, message.headers, timestamp_ms))
        self._appended += 1

    def ends(self) -> list[int]:
        return [len(log) for log in self.partitions]

    def produce(self, random: Random) -> int:
        """A record or two, some in a transaction, which may be rolled back; now and then a burst. How many were written."""
        partition, message = draw(random)
        kind = random.random()
        self.append(partition, message)
        if kind < 0.75:
            return 1
        log = self.partitions[partition]
        if kind < 0.8:  # rolled back: its records and its marker are void
            log[-1] = None
            log.append(None)
            return 1
        self.append(*draw(random))
        if kind < 0.9:
            log.append(None)  # the marker of a committed transaction
        elif kind > 0.985:
            for burst in BURSTS[partition]:
                self.append(partition, burst)
            return len(BURSTS[partition])
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
