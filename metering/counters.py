"""Deltas' lines as sums by counter: ranges that are counted together write each counter once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias, cast

import pyarrow as pa

from metering.line_columns import KEY, SEPARATOR, LineColumns, listed, table_of
from meterline_schemas.delta import DeltaLine
from meterline_schemas.types import Micros, TenantId, UsageType

Counter: TypeAlias = tuple[TenantId, UsageType, str]
"""Tenant, usage type, UTC day."""


class Days(NamedTuple):
    """A counter each: columns of text, ordered by tenant, usage type and day. Quantities are millionths."""

    tenants: Sequence[str]
    usage_types: Sequence[str]
    days: Sequence[str]
    micros: Sequence[str]
    events: Sequence[str]


class Totals(NamedTuple):
    """Over the days: columns of text, ordered by tenant and usage type."""

    tenants: Sequence[str]
    usage_types: Sequence[str]
    micros: Sequence[str]


class Sums:
    """What lines come to, by counter. Those that come as columns are summed as columns, the others one by one."""

    def __init__(self) -> None:
        self._few: dict[Counter, tuple[Micros, int]] = {}
        self._many: pa.Table | None = None
        """Each counter once."""
        self._arrived: list[pa.Table] = []
        self._arrived_lines = 0

    def add(self, lines: Iterable[DeltaLine]) -> None:
        """Adds the lines to the sums."""
        if isinstance(lines, LineColumns):
            self._arrived.append(lines.table)
            self._arrived_lines += len(lines)
            return
        known = self._few.get
        for line in lines:
            counter = line[:3]
            sum_ = known(counter)
            self._few[counter] = line[3:] if sum_ is None else (Micros(sum_[0] + line[3]), sum_[1] + line[4])

    def reach(self, counters: int) -> bool:
        """Whether these are so many counters, noticed when they are twice as many and the last lines at the latest. A counter
        that came both ways counts twice.
        """
        if self._arrived_lines >= counters:
            self._settle()
        return len(self._few) + (0 if self._many is None else self._many.num_rows) >= counters

    def days(self) -> Days:
        """The counters with what is added to them."""
        if self._many is not None or self._arrived:
            tenants, usage_types, days, micros, numbers = listed(self._ordered())
            return Days(tenants, usage_types, days, micros, list(map(str, numbers)))
        ordered = sorted(self._few, key=SEPARATOR.join)
        added = [self._few[counter] for counter in ordered]
        tenants, usage_types, days = ([counter[place] for counter in ordered] for place in range(3))
        micros, events = ([str(sum_[place]) for sum_ in added] for place in range(2))
        return Days(tenants, usage_types, days, micros, events)

    def _ordered(self) -> pa.Table:
        if self._few:
            self._arrived.append(table_of(DeltaLine(*counter, *sum_) for counter, sum_ in self._few.items()))
            self._few.clear()
        self._settle()
        return cast(pa.Table, self._many).sort_by([(name, "ascending") for name in KEY])

    def _settle(self) -> None:
        settled = [] if self._many is None else [self._many]
        grouped = pa.concat_tables([*settled, *self._arrived]).group_by(KEY, use_threads=False)
        self._many = grouped.aggregate([("quantity", "sum"), ("events", "sum")]).rename_columns([*KEY, "quantity", "events"])
        self._arrived.clear()
        self._arrived_lines = 0


def totals_of(days: Days) -> Totals:
    """What is added to the running totals with that."""
    tenants: list[str] = []
    usage_types: list[str] = []
    totals: list[int] = []
    last_tenant = last_type = None
    for tenant_id, usage_type, micros in zip(days.tenants, days.usage_types, days.micros, strict=True):
        if usage_type == last_type and tenant_id == last_tenant:
            totals[-1] += int(micros)
        else:
            tenants.append(tenant_id)
            usage_types.append(usage_type)
            totals.append(int(micros))
            last_tenant, last_type = tenant_id, usage_type
    return Totals(tenants, usage_types, list(map(str, totals)))
