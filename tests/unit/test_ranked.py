"""Records that repeat a row byte by byte are told by column; many that collide cost no more than there are of them."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np

from metering.ranges import Decided, Pending, decide
from metering.ranked import repeated
from metering.reading import Readings, read
from metering.recent import Recent
from metering.records import shorter
from meterline_schemas.delta import Figures
from meterline_schemas.rules import RULES
from tests.unit.records import PARTITIONS, body, entities, span

NAMES = entities(0, 600)


def reading(first: int, names: list[str], **over: Any) -> Readings:
    return read(span(0, first, list[bytes | None](body(name, **over) for name in names)), RULES[1], PARTITIONS)


def decided(readings: Readings) -> Decided:
    return decide(readings, RULES[1], Pending(), {}, Figures())


def repeats(readings: Readings, *older: Decided) -> list[int]:
    """The rows, ascending."""
    found = repeated(readings.columns, readings.order, [one.by_hash for one in older])
    return sorted(readings.order[found].tolist())


def test_a_record_repeats_an_earlier_row_that_is_equal_in_every_byte() -> None:
    row = decided(reading(0, NAMES[:4]))
    again = reading(10, [NAMES[9], NAMES[3], NAMES[0], NAMES[3]])
    assert repeats(again, row) == [1, 2, 3]
    assert repeats(reading(10, NAMES[:4], tenant="tnt_other"), row) == []
    assert repeats(reading(10, NAMES[:4], metadata={"again": True}), row) == []


def test_no_row_repeats_itself_or_a_later_one() -> None:
    readings = reading(10, NAMES[:4])
    assert repeats(readings, decided(readings)) == []
    assert repeats(readings, decided(reading(11, NAMES[:4]))) == []
    assert repeats(reading(11, NAMES[:4]), decided(readings)) == [0, 1, 2, 3]


def test_whoever_makes_hashes_collide_makes_no_more_comparisons_than_there_are_records() -> None:
    compared: list[int] = []

    def same(columns: Any, rows: Any, others: Any, holders: Any) -> Any:
        compared.append(len(rows))
        return np.zeros(len(rows), dtype=bool)

    with patch("metering.keys.key_hash", lambda key: 7), patch("metering.reading.key_hash", lambda key: 7):
        row, many = decided(reading(0, NAMES[:1])), decided(reading(1, NAMES[1:300]))
        again = reading(1_000, NAMES[:300])
    with patch("metering.ranked._same", same):
        repeats(again, row, many)
    assert compared == [300], "with the row that has the hash alone, and with none of those that share it"
    assert repeats(again, row, many) == [0]


def test_a_range_that_was_cut_keeps_nothing_of_what_it_was_cut_from() -> None:
    whole = reading(0, NAMES)
    part = whole.within(shorter(whole.span, 10))
    recent = Recent(100)
    recent.add(decided(part))
    (kept,) = recent.of(1, 0)
    for name in ("offset", "micros", "row_hash", "key_hash"):
        column = getattr(kept.rows, name)
        assert (len(column), column.base is None or len(column.base) == 10) == (10, True), name
    for name in ("key", "tenant_id", "kind", "corrects"):
        column = getattr(kept.rows, name)
        assert sum(buffer.size for buffer in column.buffers() if buffer is not None) < 2_000, name
