"""What must hold of the stores at rest: I1 to I6 of `docs/exactness.md`, against the naive model."""

from __future__ import annotations

from meterline_schemas.delta import decode_delta, parse_commit
from tests.simulation.model import Expected, expected
from tests.simulation.stores import Stores
from tests.simulation.tables import lines_of
from tests.simulation.violation import Violation
from tests.simulation.workload import PARTITIONS


def check(stores: Stores) -> None:
    """Raises Violation."""
    found = [
        expected(partition, stores.log.partitions[partition], stores.ledger.rules_from[partition], stores.log.starts[partition])
        for partition in range(PARTITIONS)
    ]
    _rows(stores, found)
    _rejects(stores, found)
    for partition in range(PARTITIONS):
        _deltas(stores, partition, found[partition])
        _positions(stores, partition, found[partition])
    counted = {
        (line.tenant_id, line.usage_type, line.day): (line.quantity, line.events)
        for line in lines_of(row for one in found for row in one.rows.values())
    }
    if stores.ledger.counters != counted:
        raise Violation("I4", f"counters {stores.ledger.counters}, admitted rows make {counted}")


def _rows(stores: Stores, found: list[Expected]) -> None:
    wanted = {(partition, offset): row for partition, one in enumerate(found) for offset, row in one.rows.items()}
    if stores.tables.events.keys() != wanted.keys():
        missing, surplus = wanted.keys() - stores.tables.events.keys(), stores.tables.events.keys() - wanted.keys()
        raise Violation("I2", f"admitted rows missing at {sorted(missing)}, too many at {sorted(surplus)}")
    if stores.tables.events != wanted:
        raise Violation("I3", "an admitted row is not its record's content")


def _rejects(stores: Stores, found: list[Expected]) -> None:
    wanted = {(partition, offset): row for partition, one in enumerate(found) for offset, row in one.rejects.items()}
    if stores.tables.rejects != wanted:
        differing = stores.tables.rejects.items() ^ wanted.items()
        raise Violation("I6", f"rejects differ: {sorted(position for position, _ in differing)}")


def _deltas(stores: Stores, partition: int, one: Expected) -> None:
    for value in stores.deltas[partition]:
        delta = decode_delta(value)
        if delta.cumulative != one.figures[delta.to_offset]:
            raise Violation("I1", f"delta {partition}:[{delta.from_offset},{delta.to_offset}) says {delta.cumulative}")


def _positions(stores: Stores, partition: int, one: Expected) -> None:
    end = len(stores.log.partitions[partition])
    fence, start = stores.ledger.fences[1, partition], stores.log.starts[partition]
    if fence.figures != one.figures[fence.next_offset] or fence.figures.offsets != fence.next_offset - start:
        raise Violation("I1", f"the fence of {partition} at {fence.next_offset} says {fence.figures}")
    if fence.next_offset != end:
        raise Violation("I5", f"the fence of {partition} stands at {fence.next_offset}, the log ends at {end}")
    offset, metadata = stores.group.committed.get(partition, (start, ""))
    if offset != end:
        raise Violation("I5", f"committed of {partition} is {offset}, the log ends at {end}")
    try:
        note = parse_commit(metadata)
    except ValueError:
        return  # an operator's hand wrote the very offset, without a note
    if note.matches(1, end) and note.figures != one.figures[end]:
        raise Violation("I1", f"the commit of {partition} at {end} says {note.figures}")
