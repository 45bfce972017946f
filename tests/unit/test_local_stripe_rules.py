"""The rules of meters, against the handlers themselves: sums stay exact, identifiers expire, a batch keeps its members apart."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.embedded.local_stripe import customers, idempotency, meter_events, meters
from deploy.embedded.local_stripe.forms import Params
from deploy.embedded.local_stripe.problems import Answer, Problem
from deploy.embedded.local_stripe.state import BATCH_MAX, Busy, Clock, Keeper, State

NOW = 1_800_000_000 // 86_400 * 86_400 + 43_200


@pytest.fixture
def state() -> Iterator[State]:
    yield from _fresh()


def _fresh() -> Iterator[State]:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript((Path(meters.__file__).with_name("state.sql")).read_text())
    fresh = State(database, Clock(database), "acct_unit")
    fresh.clock.stand_at(NOW)
    yield fresh
    database.close()


def _meter(state: State, formula: str, window: str | None = None) -> dict[str, object]:
    params: Params = {"display_name": "Units", "event_name": "units", "default_aggregation": {"formula": formula}}
    if window:
        params["event_time_window"] = window
    return meters.create(state, params).body


def _event(state: State, customer: str, value: str, at: int, identifier: str | None = None) -> Answer:
    params: Params = {"event_name": "units", "timestamp": str(at), "payload": {"stripe_customer_id": customer, "value": value}}
    if identifier:
        params["identifier"] = identifier
    return meter_events.create(state, params)


EVENTS = st.lists(st.tuples(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(-7_200, 200)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    events=EVENTS,
    formula=st.sampled_from(meters.FORMULAS),
    window=st.sampled_from([None, "hour", "day"]),
    cut=st.integers(-120, 10),
)
def test_a_summary_is_what_a_reader_of_the_list_would_add_up(
    events: list[tuple[int, int]], formula: str, window: str | None, cut: int
) -> None:
    for state in _fresh():
        meter = _meter(state, formula, window)
        customer = str(customers.create(state, {}).body["id"])
        for value, offset in events:
            _event(state, customer, str(value), NOW + offset)
        start, end = NOW + cut * 60 - 3_600, NOW + cut * 60
        inside = [(NOW + offset, value) for value, offset in events if start <= NOW + offset < end]
        if window:
            newest = {at // meters.WINDOWS[window]: (at, value) for at, value in inside}
            inside = list(newest.values())
        expected: int | None = None
        if inside:
            at_last = max(at for at, _ in inside)
            expected = {
                "sum": sum(value for _, value in inside),
                "count": len(inside),
                "last": [value for at, value in inside if at == at_last][-1],
            }[formula]
        assert meter_events.aggregated(state, meter, customer, start, end) == expected


def test_sums_beyond_what_sqlite_adds_up_stay_exact(state: State) -> None:
    meter = _meter(state, "sum")
    customer = str(customers.create(state, {}).body["id"])
    state.database.executemany(
        "INSERT INTO meter_events (meter, customer, at, value, identifier, received) VALUES (?, ?, ?, ?, ?, ?)",
        [(meter["id"], customer, NOW, 999_999_999_999_999, f"i{number}", NOW) for number in range(10_000)],
    )
    assert meter_events.aggregated(state, meter, customer, NOW, NOW + 60) == 9_999_999_999_999_990_000 > 2**63


def test_an_identifier_is_taken_for_24_hours_and_free_again_after(state: State) -> None:
    meter = _meter(state, "sum")
    customer = str(customers.create(state, {}).body["id"])
    _event(state, customer, "5", NOW, "same")
    state.clock.advance(24 * 3600 - 1)
    with pytest.raises(Problem, match=r"^An event already exists with identifier same\.$") as caught:
        _event(state, customer, "5", NOW, "same")
    assert (caught.value.status, caught.value.should_retry) == (400, False)
    state.clock.advance(1)
    _event(state, customer, "5", NOW, "same")
    assert meter_events.aggregated(state, meter, customer, NOW, NOW + 60) == 10


@pytest.mark.parametrize(
    "value", ["1.0", "1.5", "", "abc", "NaN", "1e3", "1" * 16, "-" + "1" * 16, "+1", "0x1", "1_0", " 1", "\u0661"]
)
def test_a_value_is_a_whole_number_of_at_most_15_digits(state: State, value: str) -> None:
    _meter(state, "last")
    customer = str(customers.create(state, {}).body["id"])
    with pytest.raises(Problem, match="15 digits"):
        _event(state, customer, value, NOW)


@pytest.mark.parametrize(
    ("offset", "why"), [(-35 * 86_400 - 1, "35 days"), (301, "5 minutes"), (-35 * 86_400, None), (300, None)]
)
def test_a_timestamp_lies_within_35_days_past_and_5_minutes_ahead(state: State, offset: int, why: str | None) -> None:
    _meter(state, "last")
    customer = str(customers.create(state, {}).body["id"])
    if why is None:
        assert _event(state, customer, "1", NOW + offset).status == 200
        return
    with pytest.raises(Problem, match=why):
        _event(state, customer, "1", NOW + offset)


def test_an_idempotency_key_replays_its_result_for_24_hours(state: State) -> None:
    made: list[str] = []

    def work(inner: State) -> Answer:
        answer = customers.create(inner, {})
        made.append(str(answer.body["id"]))
        return answer

    mark = idempotency.fingerprint("POST", "/v1/customers", b"")
    first = idempotency.once(work, "k", mark, "req_1")(state)
    state.clock.advance(idempotency.KEEP_S - 1)
    again = idempotency.once(work, "k", mark, "req_2")(state)
    assert again.body == first.body
    assert ("Idempotent-Replayed", "true") in again.headers
    assert ("Original-Request", "req_1") in again.headers
    with pytest.raises(Problem, match="other parameters") as caught:
        idempotency.once(work, "k", idempotency.fingerprint("POST", "/v1/customers", b"name=x"), "req_3")(state)
    assert caught.value.kind == "idempotency_error"
    state.clock.advance(1)
    assert idempotency.once(work, "k", mark, "req_4")(state).body != first.body
    assert len(made) == 2


def test_an_error_is_replayed_too_and_what_it_changed_is_undone(state: State) -> None:
    def work(inner: State) -> Answer:
        customers.create(inner, {"name": "half done"})
        raise Problem("no")

    guarded = idempotency.once(work, "k", b"m", "req_1")
    assert (guarded(state).status, guarded(state).status) == (400, 400)
    assert customers.list_all(state, {}).body["data"] == []


def test_metadata_merges_by_key_and_an_empty_value_removes_one(state: State) -> None:
    made = customers.create(state, {"metadata": {"a": "1", "b": "2"}}).body
    changed = customers.update(state, {"metadata": {"b": "", "c": "3"}}, str(made["id"])).body
    assert changed["metadata"] == {"a": "1", "c": "3"}
    assert customers.update(state, {"metadata": ""}, str(made["id"])).body["metadata"] == {}


def test_requests_that_share_a_transaction_fail_alone(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.start()

    def failing(inner: State) -> Answer:
        customers.create(inner, {"name": "not kept"})
        raise Problem("refused")

    def broken(inner: State) -> Answer:
        raise ZeroDivisionError

    async def together() -> list[Answer]:
        works = [lambda inner: customers.create(inner, {}), failing, broken] * BATCH_MAX
        return list(await asyncio.gather(*(keeper.do(work) for work in works)))

    try:
        statuses = [answer.status for answer in asyncio.run(together())]
    finally:
        keeper.stop()
    assert statuses == [200, 400, 500] * BATCH_MAX
    with sqlite3.connect(tmp_path / "stripe.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM customers").fetchone() == (BATCH_MAX,)
    database.close()


def test_a_second_process_on_the_same_data_is_told_so(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.start()
    try:
        with pytest.raises(Busy, match="another local Stripe"):
            Keeper(tmp_path)
    finally:
        keeper.stop()
