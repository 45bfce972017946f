"""ClickHouse's own total, asked before anything is sent: a counter that differs from it bills nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal

from clickhouse_connect.driver.exceptions import ClickHouseError

from metering.export_states import Positions
from metering.periods import Period
from runtime import clickhouse
from runtime.settings import Settings
from store import event_log

TotalsBelow = Callable[[Positions, Period, str], "dict[str, Decimal]"]
"""(positions, period, tenant) to the exact total by usage type. May block for the store's time limit; raises TruthAway."""

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

        def totals_below(positions: Positions, period: Period, tenant_id: str) -> dict[str, Decimal]:
            places = {_place(text): offset for text, offset in positions.items()}
            try:
                return event_log.totals_below(client, places, period.start, period.end, tenant_id)
            except ClickHouseError as error:
                raise TruthAway(f"ClickHouse: {error}") from error

        try:
            yield totals_below
        finally:
            client.close()

    return opened


def _place(text: str) -> tuple[int, int]:
    epoch, _, partition = text.partition(":")
    return int(epoch), int(partition)
