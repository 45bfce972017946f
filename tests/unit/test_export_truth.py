"""Several senders ask for their tenants' totals at once: one statement answers all that wait, and each gets its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from decimal import Decimal

import pytest

from billing_exporter.truth import TotalsBelow, TruthAway, Window, together

OCTOBER = Window(date(2026, 10, 1), date(2026, 11, 1), {"1:0": 10})
NOVEMBER = Window(date(2026, 11, 1), date(2026, 12, 1), {"1:0": 10})
CALLERS_MAX = 8
WITHIN_S = 10.0


class Store:
    """Answers when it may; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Window, list[str]]] = []
        self.opened = self.closed = 0
        self.began, self.may_answer = threading.Event(), threading.Event()
        self.away: TruthAway | None = None

    @contextmanager
    def open(self) -> Iterator[TotalsBelow]:
        self.opened += 1
        yield self._totals
        self.closed += 1

    def _totals(self, window: Window, tenants: Sequence[str]) -> dict[tuple[str, str], Decimal]:
        self.asked.append((window, list(tenants)))
        self.began.set()
        assert self.may_answer.wait(WITHIN_S)
        if self.away is not None:
            raise self.away
        return {(tenant, "CALL"): Decimal(window.start.month) for tenant in tenants}


def test_calls_that_wait_for_one_window_share_a_statement_and_each_gets_its_own_tenants() -> None:
    store = Store()
    with together(store.open) as totals, ThreadPoolExecutor(CALLERS_MAX) as pool:
        first = pool.submit(totals, OCTOBER, ["a"])
        assert store.began.wait(WITHIN_S)
        waiting = {tenant: pool.submit(totals, OCTOBER, [tenant]) for tenant in ("b", "c", "d")}
        other = pool.submit(totals, NOVEMBER, ["b"])
        while sum(not call.running() for call in [*waiting.values(), other]):
            threading.Event().wait(0.001)
        store.may_answer.set()
        assert first.result() == {("a", "CALL"): 10}
        assert {tenant: call.result() for tenant, call in waiting.items()} == {t: {(t, "CALL"): 10} for t in "bcd"}
        assert other.result() == {("b", "CALL"): 11}
    assert sorted(tenant for window, asked in store.asked if window == OCTOBER for tenant in asked) == ["a", "b", "c", "d"]
    assert [asked for window, asked in store.asked if window == NOVEMBER] == [["b"]]
    assert (store.opened, store.closed) == (1, 1)


def test_a_store_that_is_away_is_told_to_every_call_that_waited_and_the_next_one_asks_again() -> None:
    store = Store()
    store.away = TruthAway("ClickHouse: away")
    with together(store.open) as totals, ThreadPoolExecutor(CALLERS_MAX) as pool:
        calls = [pool.submit(totals, OCTOBER, [tenant]) for tenant in "abc"]
        store.may_answer.set()
        for call in calls:
            with pytest.raises(TruthAway):
                call.result(WITHIN_S)
        store.away = None
        assert totals(OCTOBER, ["a"]) == {("a", "CALL"): 10}


def test_nothing_is_opened_before_it_is_asked() -> None:
    store = Store()
    with together(store.open):
        pass
    assert store.opened == 0
