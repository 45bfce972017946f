"""ClickHouse's own totals, asked before anything is closed or sent: a counter that differs from them bills nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
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

    def key(self) -> Hashable:
        """Equal for windows that sum the same events."""
        after = None if self.after is None else (self.after[0], tuple(sorted(self.after[1].items())))
        return (self.start, self.end, tuple(sorted(self.positions.items())), after)


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


@contextmanager
def together(open_totals: OpenTotals) -> Iterator[TotalsBelow]:
    """One reader for any number of threads, opened when it is first asked.

    One statement runs at a time, and asks for the tenants of all calls that wait for the same window: what a statement costs
    is the same for one tenant and for ten. A failure of it is raised in each of these calls.
    """
    asking, guard = threading.Lock(), threading.Lock()
    waiting: dict[Hashable, list[tuple[Sequence[str], Future[dict[tuple[str, str], Decimal]]]]] = {}
    readers: list[TotalsBelow] = []
    with ExitStack() as opened:

        def ask(window: Window, tenants: Sequence[str]) -> dict[tuple[str, str], Decimal]:
            if not readers:
                readers.append(opened.enter_context(open_totals()))
            return readers[0](window, tenants)

        def totals_below(window: Window, tenants: Sequence[str]) -> dict[tuple[str, str], Decimal]:
            mine: Future[dict[tuple[str, str], Decimal]] = Future()
            with guard:
                waiting.setdefault(window.key(), []).append((tenants, mine))
            with asking:
                if not mine.done():
                    with guard:
                        calls = waiting.pop(window.key())
                    try:
                        found = ask(window, sorted({tenant for of_call, _ in calls for tenant in of_call}))
                    except BaseException as error:
                        for _, call in calls:
                            call.set_exception(error)
                        raise
                    for _, call in calls:
                        call.set_result(found)
            return {pair: total for pair, total in mine.result().items() if pair[0] in tenants}

        yield totals_below


def places(positions: Positions) -> dict[tuple[int, int], int]:
    """Positions as the event log takes them."""
    found = {}
    for text, offset in positions.items():
        epoch, _, partition = text.partition(":")
        found[int(epoch), int(partition)] = offset
    return found
