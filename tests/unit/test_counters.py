"""Ranges counted together write each counter once, a transaction takes so many counters, and stale fences are noticed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aggregator.counting
from aggregator.counting import Counting
from metering.counters import Sums, totals_of
from metering.line_columns import LineColumns, table_of
from meterline_schemas.delta import Delta, DeltaLine, Figures, encode_delta
from meterline_schemas.quantity import format_quantity, parse_sum, parse_sums
from meterline_schemas.types import Epoch, Micros, Offset, Partition, TenantId, UsageType
from tests.simulation import seams
from tests.simulation.ledger import Ledger

RANGE = 10


class Watched(Ledger):
    """Counts its transactions."""

    transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.transactions += 1
        with super().transaction():
            yield


@pytest.fixture
def ledger() -> Iterator[Watched]:
    with seams.driven():
        seams.current.crashes_counting = None
        yield Watched([0, 0])


def counting(ledger: Ledger) -> Counting:
    def no_clickhouse() -> Any:
        raise AssertionError("nothing here is counted from ClickHouse")

    return Counting(lambda: cast(Any, ledger), no_clickhouse, 60.0, threading.Event())


def line(tenant: int, events: int = 1) -> DeltaLine:
    return DeltaLine(TenantId(f"t{tenant:02}"), UsageType("PHOTO"), "2026-11-21", Micros(events * 1_500_000), events)


def delta(number: int, tenants: range, partition: int = 0) -> bytes:
    """The number-th range of a partition, with an event of each tenant; the rest of its records are duplicates."""
    admitted, end = len(tenants) * (number + 1), RANGE * (number + 1)
    figures = Figures(admitted=admitted, duplicate=end - admitted)
    lines = tuple(line(tenant) for tenant in tenants)
    return encode_delta(Delta(Epoch(1), Partition(partition), Offset(end - RANGE), Offset(end), 1, lines, figures))


def test_a_batch_is_counted_in_as_many_transactions_as_its_counters_take(
    ledger: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregator.counting, "COUNTERS_MAX", 4)
    values = [delta(number, range(3 * number, 3 * number + 3)) for number in range(6)]
    counting(ledger).count(values)
    # One that reads the fences; then two deltas with three new counters each in every transaction.
    assert ledger.transactions == 1 + 3
    assert ledger.counters == {(f"t{tenant:02}", "PHOTO", "2026-11-21"): (1_500_000, 1) for tenant in range(18)}
    assert ledger.fences[1, 0].next_offset == 6 * RANGE


def test_ranges_of_the_same_counters_share_one_transaction_however_many_they_are(ledger: Watched) -> None:
    counting(ledger).count([delta(number, range(5), partition) for partition in (0, 1) for number in range(20)])
    assert ledger.transactions == 1 + 1
    assert ledger.counters == {(f"t{tenant:02}", "PHOTO", "2026-11-21"): (40 * 1_500_000, 40) for tenant in range(5)}


def test_what_another_process_has_counted_meanwhile_is_not_counted_again(ledger: Watched) -> None:
    mine, other = counting(ledger), counting(ledger)
    values = [delta(number, range(5)) for number in range(3)]
    mine.count(values[:1])
    other.count(values[1:2])
    mine.count(values)
    assert ledger.counters == {(f"t{tenant:02}", "PHOTO", "2026-11-21"): (3 * 1_500_000, 3) for tenant in range(5)}


def test_records_that_are_no_deltas_and_deltas_of_no_fence_take_no_transaction_with_them(ledger: Watched) -> None:
    foreign = encode_delta(Delta(Epoch(7), Partition(0), Offset(0), Offset(1), 1, (), Figures(invalid=1)))
    counting(ledger).count([b"{", None, foreign, delta(0, range(2)), b""])
    assert ledger.fences[1, 0].next_offset == RANGE
    before = ledger.transactions
    counting(ledger).count([b"{", None])
    assert ledger.transactions == before


LINES = st.lists(
    st.builds(
        lambda tenant, day, micros, events: DeltaLine(*line(tenant)[:2], f"2026-11-{day}", Micros(micros), events),
        st.integers(0, 3),
        st.integers(20, 21),
        st.integers(-(10**30), 10**30),
        st.integers(1, 10**12),
    )
)


def of_each(lines: list[DeltaLine]) -> dict[tuple[str, str, str], tuple[int, int]]:
    return {
        key: (sum(one.quantity for one in lines if one[:3] == key), sum(one.events for one in lines if one[:3] == key))
        for key in {one[:3] for one in lines}
    }


def added(sums: Sums) -> dict[tuple[str, str, str], tuple[int, int]]:
    found = list(zip(*sums.days(), strict=True))
    keys = [(tenant, usage_type, day) for tenant, usage_type, day, _, _ in found]
    assert keys == sorted(set(keys)), "one order for all writers, each counter once"
    return {key: (int(micros), int(events)) for key, (_, _, _, micros, events) in zip(keys, found, strict=True)}


@given(LINES)
def test_sums_are_those_of_the_lines_whatever_their_size(lines: list[DeltaLine]) -> None:
    sums = Sums()
    sums.add(lines[:2])
    sums.add(lines[2:])
    assert added(sums) == of_each(lines)


@given(st.lists(st.tuples(st.booleans(), LINES, st.integers(1, 8)), max_size=6))
def test_sums_of_columns_and_of_lines_are_the_same_and_add_up(parts: list[tuple[bool, list[DeltaLine], int]]) -> None:
    sums, lines = Sums(), list[DeltaLine]()
    for as_columns, some, many in parts:
        lines += some
        columns = as_columns and some
        sums.add(LineColumns(table_of(some), sum(one.events for one in some)) if columns else some)
        # A counter that came both ways counts twice, and what came as columns is looked at before it is as many lines.
        reached, counters = sums.reach(many), len(of_each(lines))
        assert 2 * counters >= many if reached else counters < 2 * many
    days = sums.days()
    assert added(sums) == of_each(lines)
    totals: dict[tuple[str, str], int] = {}
    for one in lines:
        totals[one[:2]] = totals.get(one[:2], 0) + one.quantity
    found = [(tenant, usage_type, int(micros)) for tenant, usage_type, micros in zip(*totals_of(days), strict=True)]
    assert found == [(*key, totals[key]) for key in sorted(totals)]


TEXTS = st.one_of(
    st.integers(-(10**38) + 1, 10**38 - 1).map(format_quantity),
    st.text("-0.19\n", max_size=6),
    st.from_regex(r"-?[0-9]{1,34}(\.[0-9]{1,7})?\n?", fullmatch=True),
)


@given(st.lists(TEXTS, max_size=5))
def test_many_quantities_are_parsed_as_each_of_them(texts: list[str]) -> None:
    try:
        each: list[int] | str = [parse_sum(text) for text in texts]
    except ValueError as error:
        each = str(error)
    try:
        together: list[int] | str = list(parse_sums(texts))
    except ValueError as error:
        together = str(error)
    assert together == each
