"""Closes of periods as they stand on record, and what ClickHouse holds of the totals that follow them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from psycopg import Connection
from psycopg.rows import dict_row

from billing_exporter.ledger import Row
from billing_exporter.truth import TotalsBelow, Window
from metering.closing import ZERO
from metering.export_states import Positions
from metering.periods import FIRST_DAY, Period

COLUMNS = "tenant_id, period_start, period_end, state, positions, totals, finalized, reason"


@dataclass(frozen=True)
class Close:
    """What is copied, or fixed for good, of one period of a tenant."""

    tenant_id: str
    period: Period
    state: Literal["copied", "closed", "refused"]
    positions: dict[str, int]
    totals: dict[str, Decimal]
    """By usage type: everything before the period's end and below `positions`, over all time."""
    finalized: dict[str, str]
    """Usage type to the invoice that was final before the close: of such a type `totals` has what was billed, and no more."""
    reason: str | None
    """Of a refused one: how the counters differ from ClickHouse."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Close:
        """A row of COLUMNS; dates may be texts, as JSON has them."""
        return cls(
            tenant_id=row["tenant_id"],
            period=Period(_day(row["period_start"]), _day(row["period_end"])),
            state=row["state"],
            positions=row["positions"],
            totals={usage_type: Decimal(text) for usage_type, text in row["totals"].items()},
            finalized=row["finalized"],
            reason=row["reason"],
        )


def closes_of(connection: Connection[Any], tenant_id: str) -> dict[date, Close]:
    """Every close of a tenant by its first day, oldest first."""
    with connection.cursor(row_factory=close_row) as cursor:
        found = cursor.execute(f"SELECT {COLUMNS} FROM period_closes WHERE tenant_id = %s ORDER BY period_start", (tenant_id,))
        return {close.period.start: close for close in found}


def close_row(cursor: Any) -> Any:
    """A row factory for statements that return COLUMNS."""
    make = dict_row(cursor)
    return lambda values: Close.of(make(values))


class Held:
    """What ClickHouse holds of one tenant's totals, each window asked once. `closes` are the tenant's, by their first day."""

    def __init__(self, totals: TotalsBelow, tenant_id: str, closes: Mapping[date, Close]) -> None:
        self._totals, self._tenant_id, self._closes = totals, tenant_id, closes
        self._asked: dict[object, dict[tuple[str, str], Decimal]] = {}

    def by_type(
        self, period: Period, positions: Positions, follows: date | None, usage_types: Iterable[str]
    ) -> dict[str, Decimal]:
        """Of these usage types: a period's own days below the positions, or after a close whatever that one did not bill.

        A type that an invoice cut off before its close is summed over all time, less what was billed of it. Raises TruthAway.
        """
        before = None if follows is None else self._closes[follows]
        found = {}
        for usage_type in usage_types:
            if before is None:
                window = Window(period.start, period.end, positions)
            elif usage_type in before.finalized:
                window = Window(FIRST_DAY, period.end, positions)
            else:
                window = Window(FIRST_DAY, period.end, positions, (before.period.end, before.positions))
            total = self._ask(window).get((self._tenant_id, usage_type), ZERO)
            if before is not None and usage_type in before.finalized:
                total -= before.totals.get(usage_type, ZERO)
            found[usage_type] = total
        return found

    def of(self, row: Row, usage_types: Iterable[str]) -> Decimal:
        """What a revision's total should be. Raises TruthAway."""
        return sum(self.by_type(row.period, row.positions, row.follows, usage_types).values(), ZERO)

    def _ask(self, window: Window) -> dict[tuple[str, str], Decimal]:
        key = window.key()
        if key not in self._asked:
            self._asked[key] = self._totals(window, [self._tenant_id])
        return self._asked[key]


def _day(value: date | str) -> date:
    return date.fromisoformat(value) if isinstance(value, str) else value
