"""The lines of a delta as columns, where they are many: as fast as the definition is slow.

Held equal to `meterline_schemas.delta.decode_delta` on golden and fuzzed bytes. Whatever is not plainly right is left to the
definition, which says what is wrong with it, or that nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from meterline_schemas.delta import Delta, DeltaLine, Lines, by_column, check_day, decode_delta, delta_of, delta_with, parse_delta
from meterline_schemas.quantity import format_quantity
from meterline_schemas.types import Micros, TenantId, UsageType

MANY_BYTES = 16_384
"""Of a delta's value: making columns of a smaller one takes longer than reading it line by line."""
KEY: Final = ("tenant_id", "usage_type", "day")
QUANTITY: Final = pa.decimal256(76, 6)
"""As wide as no sum of NUMERIC(38, 6) can come to, however many there are: sums of it cannot overflow."""
_SCHEMA: Final = pa.schema(
    [*((name, pa.string()) for name in KEY), ("quantity", QUANTITY), ("events", pa.int64())],
)
_QUANTITY: Final = r"^-?(?:0|[1-9][0-9]{0,31})(?:\.[0-9]{0,5}[1-9])?$"
_INT64_MAX: Final = (1 << 63) - 1
SEPARATOR: Final = "\x1f"
"""No name holds a control character, so keys that are joined by it are ordered as the keys are."""


class LineColumns:
    """Lines, sorted by their key, one each; a table of them, and their events together. No two compare equal."""

    def __init__(self, table: pa.Table, events: int) -> None:
        self.table, self.events = table, events

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[DeltaLine]:
        for tenant_id, usage_type, day, micros, events in zip(*listed(self.table), strict=True):
            yield DeltaLine(TenantId(tenant_id), UsageType(usage_type), day, Micros(int(micros)), events)


def decode(value: bytes) -> Delta:
    """As `decode_delta`; the lines of a large delta are LineColumns."""
    if len(value) < MANY_BYTES:
        return decode_delta(value)
    wire = parse_delta(value)
    lines = _columns(wire.lines)
    return delta_of(wire) if lines is None else delta_with(wire, lines, lines.events)


def events_of(lines: Lines) -> int:
    """Of all lines together."""
    return lines.events if isinstance(lines, LineColumns) else sum(line.events for line in lines)


def table_of(lines: Iterable[DeltaLine]) -> pa.Table:
    """The same as columns."""
    tenants, usage_types, days, quantities, events = by_column(list(lines))
    return _table(tenants, usage_types, days, list(map(format_quantity, quantities)), events)


def listed(table: pa.Table) -> tuple[list[str], list[str], list[str], list[str], list[int]]:
    """The columns, the quantities as millionths in decimal text, perhaps with leading noughts."""
    micros = pc.replace_substring(table["quantity"].cast(pa.string()), ".", "")
    tenants, usage_types, days = (table[name].to_pylist() for name in KEY)
    return tenants, usage_types, days, micros.to_pylist(), table["events"].to_pylist()


def _columns(wire: list[tuple[str, str, str, str, int]]) -> LineColumns | None:
    """None where anything is out of the ordinary."""
    tenants, usage_types, days, quantities, events = by_column(wire)
    names = "".join(tenants) + "".join(set(usage_types))
    if not (names.isprintable() and all(tenants) and all(usage_types) and "".join(quantities).isascii()):
        return None
    if not wire or min(events) < 1 or max(events) > _INT64_MAX:
        return None
    try:
        for day in set(days):
            check_day(day)
    except ValueError:
        return None
    texts = pa.array(quantities, pa.string())
    if not pc.all(pc.match_substring_regex(texts, _QUANTITY)).as_py() or pc.any(pc.equal(texts, "-0")).as_py():
        return None
    table = _table(tenants, usage_types, days, texts, events)
    keys = pc.binary_join_element_wise(*(table[name] for name in KEY), SEPARATOR).combine_chunks()
    if not pc.all(pc.less(keys[:-1], keys[1:])).as_py():
        return None
    return LineColumns(table, sum(events))


def _table(tenants: Any, usage_types: Any, days: Any, quantities: Any, events: Any) -> pa.Table:
    quantity = pa.array(quantities, pa.string()).cast(QUANTITY)
    names = (pa.array(column, pa.string()) for column in (tenants, usage_types, days))
    return pa.table([*names, quantity, pa.array(events, pa.int64())], schema=_SCHEMA)
