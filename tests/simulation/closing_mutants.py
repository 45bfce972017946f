"""Deliberate bugs of closes: each must break what the schedules check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final
from unittest.mock import patch

import billing_exporter.amounts
import tests.simulation.closing_world as world_module
from billing_exporter.amounts import Amount, amount_of
from billing_exporter.figures import PeriodClose
from metering.periods import FIRST_DAY, Period
from tests.simulation.closing_world import ClosingWorld, Transaction

Mutant = AbstractContextManager[object]


def fence_read_after_the_counters() -> Mutant:
    """Counters and fence are copied in two statements, with nothing that keeps the aggregator out."""

    def copied_now(self: ClosingWorld, period: Period) -> PeriodClose:
        totals = {"U": self.counted(FIRST_DAY, period.end)}
        self.fence = min(len(self.log), self.fence + 1)
        return PeriodClose(period, "copied", {"1:0": self.fence}, totals, None, {})

    return patch.object(ClosingWorld, "copied_now", copied_now)


def planned_while_it_is_closed() -> Mutant:
    """A period that is being closed is planned as if it were running."""

    def unseen(self: ClosingWorld, period: Period) -> Any:
        found = _figures(self, period)
        if "t" in found.own and found.own["t"].state == "copied":
            before = found.before.get("t")
            del found.own["t"]
            if before is not None:
                found.cumulative["t"] = {"U": self.counted(FIRST_DAY, period.end)}
        return found

    return patch.object(ClosingWorld, "figures", unseen)


def late_events_are_left_out() -> Mutant:
    """A running period counts its own days only, whatever the one before had closed without."""

    def own_days(*arguments: Any) -> Amount:
        amount = amount_of(*arguments)
        return amount if amount.closed else replace(amount, total=amount.total - amount.late, late=Decimal(0))

    return patch.object(world_module, "amount_of", own_days)


def a_period_before_the_first_close_is_billed() -> Mutant:
    """What comes late for days before the first closed period is billed for those days, and in the running period too."""

    def unseen(self: ClosingWorld, period: Period) -> Any:
        found = _figures(self, period)
        found.passed.clear()
        return found

    return patch.object(ClosingWorld, "figures", unseen)


def the_fraction_is_dropped() -> Mutant:
    """Each period begins at nothing."""

    def without(found: Any, key: Any, mapping: Any, carry: Any) -> Amount:
        return amount_of(found, key, mapping, None)

    return patch.object(world_module, "amount_of", without)


def a_closed_period_is_counted_again() -> Mutant:
    """Planning takes the counters of a closed period as they are now."""

    def reopened(self: ClosingWorld, period: Period) -> Any:
        found = _figures(self, period)
        found.own.clear()
        found.cumulative["t"] = {"U": self.counted(FIRST_DAY, period.end)}
        return found

    return patch.object(ClosingWorld, "figures", reopened)


def closed_although_copied_anew() -> Mutant:
    """A closer settles by the period alone: what it compared is not what stands there."""

    def closing(self: ClosingWorld) -> Transaction:
        period = self.due()
        if period is None or self.is_closed(period):
            return
        copied = self.copied_now(period)
        self.closes[period.start] = copied
        yield
        yield
        totals = {"U": copied.totals["U"]}
        newest = self.closes[period.start]
        self.closes[period.start] = replace(newest, state="closed", totals=totals)

    return patch.object(ClosingWorld, "closing", closing)


def bills_its_own_days_at_the_close() -> Mutant:
    """The bill of a closed period is the sum of its days below its positions, without the telescope."""

    def of_days(self: ClosingWorld, period: Period) -> Amount:
        amount = _amount(self, period)
        if not amount.closed:
            return amount
        inside = enumerate(self.log[: amount.positions["1:0"]])
        return replace(amount, total=sum((one.quantity for _, one in inside if period.holds(one.day)), Decimal(0)))

    return patch.object(ClosingWorld, "amount", of_days)


def sums_are_floats() -> Mutant:
    """Totals lose their last digits."""

    def floating(self: ClosingWorld, start: Any, end: Any) -> Decimal:
        return Decimal(sum(float(one.quantity) for one in self.log[: self.fence] if start <= one.day < end))

    return patch.object(ClosingWorld, "counted", floating)


_figures = ClosingWorld.figures
_amount = ClosingWorld.amount
assert billing_exporter.amounts.amount_of is amount_of

MUTANTS: Final[Mapping[str, Callable[[], Mutant]]] = MappingProxyType(
    {
        mutant.__name__: mutant
        for mutant in (
            fence_read_after_the_counters,
            planned_while_it_is_closed,
            late_events_are_left_out,
            a_period_before_the_first_close_is_billed,
            the_fraction_is_dropped,
            a_closed_period_is_counted_again,
            closed_although_copied_anew,
            bills_its_own_days_at_the_close,
            sums_are_floats,
        )
    }
)
