"""A position as people write it: EPOCH/PARTITION/OFFSET."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_TEXT = re.compile(r"([0-9]{1,5})/([0-9]{1,10})/([0-9]{1,15})")
_OFFSET_BELOW = 1 << 48


class Position(NamedTuple):
    """Where a record stands in the log."""

    epoch: int
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}/{self.partition}/{self.offset}"


def parse_position(text: str) -> Position:
    """The position in `text`. Raises ValueError that says what is wanted."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is no position: write it as EPOCH/PARTITION/OFFSET, as in 1/0/17")
    position = Position(int(match[1]), int(match[2]), int(match[3]))
    if not (1 <= position.epoch < 1 << 16 and position.partition < 1 << 31 and position.offset < _OFFSET_BELOW):
        raise ValueError(f"{text} is out of range: an epoch has 16 bits and starts at 1, a partition 31, an offset 48")
    return position


def below(next_offsets: Mapping[tuple[int, int], int]) -> str:
    """A ClickHouse condition: the row stands below these positions, {(epoch, partition): next offset}.

    A partition that is not among them has no rows below. An array for each epoch keeps the condition short where there
    are many partitions; an index past its end reads 0, below which nothing lies.
    """
    epochs: dict[int, dict[int, int]] = {}
    for (epoch, partition), offset in next_offsets.items():
        epochs.setdefault(int(epoch), {})[int(partition)] = int(offset)
    parts = []
    for epoch, offsets in sorted(epochs.items()):
        row = ",".join(str(offsets.get(partition, 0)) for partition in range(max(offsets) + 1))
        parts.append(f"(log_epoch = {epoch} AND kafka_offset < CAST([{row}], 'Array(UInt64)')[kafka_partition + 1])")
    return "(" + (" OR ".join(parts) or "0") + ")"
