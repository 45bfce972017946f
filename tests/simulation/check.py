"""What must hold of the stores at rest: I1 to I6 of `docs/exactness.md`, against the naive model."""

from __future__ import annotations

from collections.abc import Mapping

from metering.records import Record
from meterline_schemas.delta import decode_delta, parse_commit
from meterline_schemas.ingest import FORWARDED_FROM_HEADER
from store.epochs import Epoch
from tests.simulation.model import Expected, Holder, expected
from tests.simulation.stores import Stores
from tests.simulation.tables import lines_of
from tests.simulation.violation import Violation


def check(stores: Stores) -> None:
    """Raises Violation."""
    found: dict[tuple[int, int], Expected] = {}
    older: dict[bytes, Holder] = {}
    for epoch, log in zip(stores.ledger.epochs, stores.logs, strict=True):
        rules = stores.ledger.rules_from[epoch.epoch]
        for partition, records in enumerate(log.partitions):
            # Past an epoch's end there are no verdicts.
            decided = records if epoch.ends is None else records[: epoch.ends[partition]]
            start = log.starts[partition]
            one = expected(partition, decided, rules[partition], start, epoch.epoch, older, lambda r: _ingested(stores, r))
            found[epoch.epoch, partition] = one
        older = {key: holder for one in found.values() for key, holder in one.first.items()}
    _rows(stores, found)
    _rejects(stores, found)
    for values in stores.deltas:
        for value in values:
            _delta(value, found)
    for (number, partition), one in found.items():
        _positions(stores, stores.ledger.epochs[number - 1], partition, one)
    if len(stores.logs) > 1:
        _forwarded(stores)
    counted = {
        (line.tenant_id, line.usage_type, line.day): (line.quantity, line.events)
        for line in lines_of(row for one in found.values() for row in one.rows.values())
    }
    if stores.ledger.counters != counted:
        raise Violation("I4", f"counters {stores.ledger.counters}, admitted rows make {counted}")


def _ingested(stores: Stores, record: Record) -> int:
    """A forwarded record was taken when its original was."""
    if len(stores.logs) == 1:
        return record.timestamp_ms
    origin = dict(record.headers).get(FORWARDED_FROM_HEADER)
    if origin is None:
        return record.timestamp_ms
    _, partition, offset = map(int, origin.split(b"/"))
    original = stores.logs[0].partitions[partition][offset]
    assert original is not None
    return original.timestamp_ms


def _forwarded(stores: Stores) -> None:
    """I7: every record past the end of epoch 1 has a copy in epoch 2, and none below it has."""
    ends = stores.ledger.epochs[0].ends
    assert ends is not None
    late = {
        f"1/{partition}/{record.offset}".encode()
        for partition, records in enumerate(stores.logs[0].partitions)
        for record in records[ends[partition] :]
        if record is not None
    }
    copies = {
        dict(record.headers).get(FORWARDED_FROM_HEADER)
        for records in stores.logs[1].partitions
        for record in records
        if record is not None
    } - {None}
    if copies != late:
        raise Violation("I7", f"forwarded {sorted(map(str, copies))}, late are {sorted(map(str, late))}")


def _rows(stores: Stores, found: Mapping[tuple[int, int], Expected]) -> None:
    wanted = {(*lane, offset): row for lane, one in found.items() for offset, row in one.rows.items()}
    if stores.tables.events.keys() != wanted.keys():
        missing, surplus = wanted.keys() - stores.tables.events.keys(), stores.tables.events.keys() - wanted.keys()
        raise Violation("I2", f"admitted rows missing at {sorted(missing)}, too many at {sorted(surplus)}")
    if stores.tables.events != wanted:
        raise Violation("I3", "an admitted row is not its record's content")


def _rejects(stores: Stores, found: Mapping[tuple[int, int], Expected]) -> None:
    wanted = {(*lane, offset): row for lane, one in found.items() for offset, row in one.rejects.items()}
    if stores.tables.rejects != wanted:
        differing = stores.tables.rejects.items() ^ wanted.items()
        raise Violation("I6", f"rejects differ: {sorted(position for position, _ in differing)}")


def _delta(value: bytes, found: Mapping[tuple[int, int], Expected]) -> None:
    delta = decode_delta(value)
    figures = found[delta.epoch, delta.partition].figures
    if delta.to_offset >= len(figures) or delta.cumulative != figures[delta.to_offset]:
        where = f"{delta.epoch}/{delta.partition}:[{delta.from_offset},{delta.to_offset})"
        raise Violation("I1", f"delta {where} says {delta.cumulative}")


def _positions(stores: Stores, epoch: Epoch, partition: int, one: Expected) -> None:
    end = len(one.figures) - 1
    fence, start = stores.ledger.fences[epoch.epoch, partition], epoch.starts[partition]
    if fence.next_offset != end:
        raise Violation("I5", f"the fence of {epoch.epoch}/{partition} stands at {fence.next_offset}, the log ends at {end}")
    if fence.figures != one.figures[fence.next_offset] or fence.figures.offsets != fence.next_offset - start:
        raise Violation("I1", f"the fence of {epoch.epoch}/{partition} at {fence.next_offset} says {fence.figures}")
    offset, metadata = stores.group.committed[epoch.epoch].get(partition, (start, ""))
    if offset != end and epoch.ends is None:  # of an ended one nobody puts right what is lowered; the fence tells
        raise Violation("I5", f"committed of {epoch.epoch}/{partition} is {offset}, the log ends at {end}")
    try:
        note = parse_commit(metadata)
    except ValueError:
        return  # an operator's hand wrote the very offset, without a note
    if note.matches(epoch.epoch, end) and note.figures != one.figures[end]:
        raise Violation("I1", f"the commit of {epoch.epoch}/{partition} at {end} says {note.figures}")
