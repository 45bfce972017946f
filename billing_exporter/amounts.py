"""How much a (tenant, meter) owes in a period, exactly: running or closed, with what came late and what was left over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from billing_exporter.figures import Figures, MeterMapping
from metering.closing import ZERO, Totals
from metering.export_states import Positions, Units, rescaled, units


@dataclass(frozen=True)
class Amount:
    """What the counters say now, or what a close said for good."""

    total: Decimal
    positions: Positions
    closed: bool
    counts: bool
    """Whether there is anything to tell: usage, or a fraction of the period before."""
    follows: date | None = None
    """Start of the closed period that it continues."""
    carried: Decimal = ZERO
    """The remainder of that one, in units of the meter."""
    late: Decimal = ZERO
    problem: tuple[Literal["hold", "wait"], str] | None = None
    """Why nothing can be planned now."""

    def units(self, scale: int) -> Units:
        """What is sent of it, and what is left. Raises TooLarge."""
        return units(self.total, scale, self.carried)


def amount_of(found: Figures, key: tuple[str, str], mapping: MeterMapping, carry: tuple[int, Decimal] | None) -> Amount:
    """What a pair owes by the figures. `carry` is (scale, remainder) that the closed period before left."""
    tenant = key[0]
    if tenant in found.passed:
        return Amount(ZERO, found.positions, closed=False, counts=False)
    own, before = found.own.get(tenant), found.before.get(tenant)
    follows = None if before is None else before.period.start
    carried = ZERO if carry is None else rescaled(carry[1], carry[0], mapping.scale)
    billed_before = _sum(before.totals, mapping.usage_types) if before is not None else ZERO
    if own is not None and own.state == "closed":
        total = _sum(own.totals, mapping.usage_types) - billed_before
        return Amount(total, own.positions, True, total != 0 or carried != 0, follows, carried)
    problem: tuple[Literal["hold", "wait"], str] | None = None
    if own is not None:
        why = own.reason or "it is being closed"
        problem = ("hold" if own.state == "refused" else "wait", why)
    in_period = found.totals.get(key, ZERO)
    total = in_period
    if before is not None:
        total = _sum(found.cumulative.get(tenant, {}), mapping.usage_types) - billed_before
    counts = key in found.totals or total != 0 or carried != 0
    return Amount(total, found.positions, False, counts, follows, carried, total - in_period, problem)


def _sum(totals: Totals, usage_types: Iterable[str]) -> Decimal:
    return sum((totals.get(usage_type, ZERO) for usage_type in usage_types), ZERO)
