"""Deltas' lines as sums by counter: ranges that are counted together write each counter once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from meterline_schemas.delta import DeltaLine
from meterline_schemas.types import Micros, TenantId, UsageType

Counter: TypeAlias = tuple[TenantId, UsageType, str]
"""Tenant, usage type, UTC day."""
Sums: TypeAlias = dict[Counter, tuple[Micros, int]]
"""Quantity and events."""


def gather(sums: Sums, lines: Iterable[DeltaLine]) -> None:
    """Adds the lines to the sums."""
    known = sums.get
    for line in lines:
        counter = line[:3]
        sum_ = known(counter)
        sums[counter] = line[3:] if sum_ is None else (Micros(sum_[0] + line[3]), sum_[1] + line[4])
