"""ClickHouse's own totals, asked before anything is closed or sent: a counter that differs from them bills nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from clickhouse_connect.driver.exceptions import ClickHouseError

from metering.export_states import Positions
from runtime import clickhouse
from runtime.settings import Settings
from store import event_log


@dataclass(frozen=True)
class Window:
    """Which events a total sums: of days in [start, end), below `positions`; `after` (day, positions) of a close: without those
    of days before it that lie below its positions, because they are billed."""

    start: date
    end: date
    positions: Positions
    after: tuple[date, Positions] | None = None


TotalsBelow = Callable[[Window, Sequence[str]], "dict[tuple[str, str], Decimal]"]
"""(window, tenants) to the exact totals by (tenant, usage type). May block for the store's time limit; raises TruthAway."""

OpenTotals = Callable[[], AbstractContextManager[TotalsBelow]]
"""Opens a reader for one thread."""


class TruthAway(Exception):
    """ClickHouse did not answer, so nothing was compared and nothing may be sent."""


def clickhouse_totals(settings: Settings) -> OpenTotals:
    """Readers of the settings' ClickHouse."""

    @contextmanager
    def opened() -> Iterator[TotalsBelow]:
        try:
            client = clickhouse.client(settings)
        except ClickHouseError as error:
            raise TruthAway(f"ClickHouse: {error}") from error

        def totals_below(window: Window, tenants: Sequence[str]) -> dict[tuple[str, str], Decimal]:
            after = None if window.after is None else (window.after[0], places(window.after[1]))
            try:
                return event_log.totals_of(client, tenants, places(window.positions), window.start, window.end, after)
            except ClickHouseError as error:
                raise TruthAway(f"ClickHouse: {error}") from error

        try:
            yield totals_below
        finally:
            client.close()

    return opened


def places(positions: Positions) -> dict[tuple[int, int], int]:
    """Positions as the event log takes them."""
    found = {}
    for text, offset in positions.items():
        epoch, _, partition = text.partition(":")
        found[int(epoch), int(partition)] = offset
    return found
