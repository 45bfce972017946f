"""What is sent, when, and what becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.export_states import (
    MOVES,
    RESEND_WITHIN,
    SETTLED_AFTER,
    VALUE_MAX,
    Decision,
    Delivered,
    Halted,
    Latest,
    Outcome,
    Refused,
    State,
    TooLarge,
    Unclear,
    Units,
    Wanted,
    after_send,
    after_summary,
    before_send,
    decide,
    dominates,
    event_time,
    identifier,
    plain,
    quantity_of,
    units,
)
from metering.periods import billing_period_starting_in

OCTOBER = billing_period_starting_in(2026, 10, 1)
NOON = datetime(2026, 10, 21, 12, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)

MICROS = st.integers(-(10**21), 10**21)


@given(micros=MICROS, scale=st.integers(1, 10**6))
def test_what_is_sent_and_what_is_left_over_make_the_total(micros: int, scale: int) -> None:
    total = Decimal(micros).scaleb(-6)
    try:
        sent = units(total, scale)
    except TooLarge:
        assert micros * scale // 10**6 > VALUE_MAX
        return
    assert Decimal(sent.value) + sent.remainder == Decimal(micros * scale).scaleb(-6)
    assert sent.value == max(0, micros * scale // 10**6)
    assert micros < 0 or 0 <= sent.remainder < 1


def test_a_negative_total_sends_nothing_and_carries_all_of_it() -> None:
    assert units(Decimal("-2.5"), 10) == Units(0, Decimal(-25))


def test_fifteen_digits_pass_and_sixteen_do_not() -> None:
    assert units(Decimal(VALUE_MAX), 1).value == VALUE_MAX
    with pytest.raises(TooLarge, match="smaller scale"):
        units(Decimal(VALUE_MAX + 1), 1)


def test_a_quantity_is_told_only_where_it_is_exact() -> None:
    assert quantity_of(1_500_000, 1_000_000) == Decimal("1.5")
    assert quantity_of(1, 3) is None


@pytest.mark.parametrize(
    ("value", "text"), [("1.500000", "1.5"), ("1E+3", "1000"), ("100", "100"), ("-0.50", "-0.5"), ("1E-6", "0.000001")]
)
def test_a_decimal_is_written_without_exponent_and_without_idle_zeros(value: str, text: str) -> None:
    assert plain(Decimal(value)) == text


def test_every_part_of_a_row_is_in_its_identifier_and_no_two_rows_share_one() -> None:
    rows: list[tuple[str, bool, str, str, str, int, int]] = [
        ("acct", False, "t", "m", "2026-10-01", 1, 5),
        ("acct2", False, "t", "m", "2026-10-01", 1, 5),
        ("acct", True, "t", "m", "2026-10-01", 1, 5),
        ("acct", False, "t2", "m", "2026-10-01", 1, 5),
        ("acct", False, "t", "m2", "2026-10-01", 1, 5),
        ("acct", False, "t", "m", "2026-11-01", 1, 5),
        ("acct", False, "t", "m", "2026-10-01", 2, 5),
        ("acct", False, "t", "m", "2026-10-01", 1, 6),
        ("acct", False, "t,1:m", "", "2026-10-01", 1, 5),
    ]
    names = {identifier(*row) for row in rows}
    assert len(names) == len(rows)
    assert max(map(len, names)) <= 100
    assert identifier(*rows[0]) == identifier(*rows[0])


@given(
    older=st.dictionaries(st.sampled_from(["1:0", "1:1", "2:0"]), st.integers(0, 3)),
    newer=st.dictionaries(st.sampled_from(["1:0", "1:1", "2:0"]), st.integers(0, 3)),
)
def test_a_vector_dominates_when_it_has_counted_all_that_the_other_has(older: dict[str, int], newer: dict[str, int]) -> None:
    counted = {(place, offset) for place, end in newer.items() for offset in range(end + 1)}
    assert dominates(newer, older) == all((place, end) in counted for place, end in older.items())


@given(
    moments=st.lists(st.integers(0, 40 * 86_400 * 1_000), min_size=1, max_size=60).map(sorted),
    anchor=st.integers(1, 31),
)
def test_timestamps_rise_strictly_lie_in_the_period_and_never_far_ahead(moments: list[int], anchor: int) -> None:
    period = billing_period_starting_in(2026, 10, anchor)
    newest: datetime | None = None
    for moment in moments:
        now = period.starts_at + timedelta(milliseconds=moment)
        at = event_time(period, now, newest)
        if isinstance(at, str):
            continue
        assert period.starts_at <= at < period.ends_at
        assert newest is None or at > newest
        assert at - now <= timedelta(minutes=4)
        assert at.microsecond == 0
        assert (at >= period.ends_at - timedelta(seconds=60)) == (now >= period.ends_at)
        newest = at


def test_the_last_minute_of_a_period_is_left_to_revisions_made_after_it() -> None:
    end = OCTOBER.ends_at
    assert event_time(OCTOBER, end - SECOND, None) == end - timedelta(seconds=61)
    assert event_time(OCTOBER, end - SECOND, end - timedelta(seconds=61)) == "wait for the period's end"
    assert event_time(OCTOBER, end, end - timedelta(seconds=61)) == end - timedelta(seconds=60)
    assert event_time(OCTOBER, end, end - SECOND) == "no second of the period is left for another revision"
    assert event_time(OCTOBER, NOON, None) == NOON.replace(microsecond=0)
    assert "begins" in str(event_time(OCTOBER, OCTOBER.starts_at - SECOND, None))
    assert "too far ahead" in str(event_time(OCTOBER, NOON, NOON + timedelta(minutes=4)))


def _latest(state: State, *, value: int = 5, customer: str = "cus_1", sent: bool = False, billed_to: str | None = None) -> Latest:
    return Latest(1, state, customer, value, {"1:0": 10}, sent, billed_to)


def _wanted(value: int = 5, customer: str = "cus_1", offset: int = 10) -> Wanted:
    return Wanted(customer, Decimal(value), value, {"1:0": offset})


@pytest.mark.parametrize(
    ("latest", "wanted", "action"),
    [
        (None, _wanted(0), "nothing"),
        (None, _wanted(5), "insert"),
        (_latest("planned"), _wanted(5), "keep"),
        (_latest("planned"), _wanted(6), "supersede"),
        (_latest("planned"), _wanted(5, "cus_2"), "supersede"),
        (_latest("sending", sent=True, billed_to="cus_1"), _wanted(6), "wait"),
        (_latest("ambiguous", sent=True, billed_to="cus_1"), _wanted(6), "wait"),
        (_latest("retry_wait", sent=True, billed_to="cus_1"), _wanted(6), "wait"),
        (_latest("accepted", sent=True, billed_to="cus_1"), _wanted(5), "keep"),
        (_latest("accepted", sent=True, billed_to="cus_1"), _wanted(6), "insert"),
        (_latest("confirmed", sent=True, billed_to="cus_1"), _wanted(4), "insert"),
        (_latest("confirmed", sent=True, billed_to="cus_1"), _wanted(0), "insert"),
        (_latest("confirmed", sent=True, billed_to="cus_1"), _wanted(6, "cus_2"), "hold"),
        (_latest("rejected", sent=True), _wanted(5), "hold"),
        (_latest("rejected", sent=True), _wanted(6), "insert"),
        (_latest("rejected", sent=True), _wanted(5, "cus_2"), "insert"),
        (_latest("rejected", sent=True, billed_to="cus_1"), _wanted(5, "cus_2"), "hold"),
        (_latest("manual"), _wanted(5), "hold"),
        (_latest("manual"), _wanted(6), "supersede"),
        (_latest("manual", sent=True, billed_to="cus_1"), _wanted(6), "hold"),
        (_latest("superseded", sent=True, billed_to="cus_1"), _wanted(5), "insert"),
        (_latest("closed", sent=True, billed_to="cus_1"), _wanted(6), "hold"),
        (_latest("closed", sent=True, billed_to="cus_1"), _wanted(5), "keep"),
        (_latest("accepted", sent=True, billed_to="cus_1"), _wanted(6, offset=9), "hold"),
    ],
)
def test_planning_makes_a_revision_only_where_the_last_one_is_known_and_says_something_else(
    latest: Latest | None, wanted: Wanted, action: str
) -> None:
    assert decide(latest, wanted).action == action


def test_counters_that_went_back_are_never_exported() -> None:
    decision = decide(_latest("confirmed", sent=True, billed_to="cus_1"), Wanted("cus_1", Decimal(3), 3, {}))
    assert decision.action == "hold"
    assert "behind the last export" in decision.reason
    assert isinstance(decision, Decision)


@pytest.mark.parametrize(
    ("outcome", "attempts", "age", "state"),
    [
        (Delivered(), 1, timedelta(0), "accepted"),
        (Delivered(duplicate=True), 2, RESEND_WITHIN * 2, "accepted"),
        (Refused("no such customer"), 1, timedelta(0), "rejected"),
        (Refused("no such customer"), 2, timedelta(0), "ambiguous"),
        (Unclear("500"), 1, timedelta(0), "retry_wait"),
        (Unclear("500"), 9, RESEND_WITHIN - SECOND, "retry_wait"),
        (Unclear("500"), 9, RESEND_WITHIN, "ambiguous"),
        (Halted("401"), 1, timedelta(0), "retry_wait"),
    ],
)
def test_an_answer_moves_the_row(outcome: Outcome, attempts: int, age: timedelta, state: str) -> None:
    step = after_send(outcome, attempts, NOON - age, NOON)
    assert step.state == state
    assert step.state in MOVES["sending"]


def test_waits_double_up_to_a_quarter_hour_and_honour_what_stripe_asks_for() -> None:
    def wait_s(attempts: int, after_s: float = 0.0, spread: float = 1.0) -> float:
        step = after_send(Unclear("429", after_s), attempts, NOON, NOON, spread)
        assert step.next_try_at is not None
        return (step.next_try_at - NOON).total_seconds()

    assert [wait_s(attempts) for attempts in (1, 2, 3, 40)] == [0.5, 1.0, 2.0, 900.0]
    assert wait_s(1, after_s=30) == 30
    assert wait_s(1, after_s=1e9) == 900
    assert wait_s(3, spread=0.0) == 1.0


@pytest.mark.parametrize(
    ("state", "first_sent_age", "event_age", "to"),
    [
        ("planned", None, timedelta(days=1), "sending"),
        ("planned", None, timedelta(days=34, seconds=1), "manual"),
        ("retry_wait", timedelta(hours=22), timedelta(days=1), "sending"),
        ("retry_wait", timedelta(hours=23), timedelta(days=1), "ambiguous"),
        ("sending", timedelta(hours=1), timedelta(days=1), "sending"),
        ("sending", timedelta(hours=23), timedelta(days=1), "ambiguous"),
        ("sending", timedelta(hours=1), timedelta(days=34, seconds=1), "ambiguous"),
    ],
)
def test_a_row_is_sent_again_only_while_its_identifier_is_known(
    state: State, first_sent_age: timedelta | None, event_age: timedelta, to: str
) -> None:
    first_sent = None if first_sent_age is None else NOON - first_sent_age
    step = before_send(state, first_sent, NOON - event_age, NOON)
    assert step.state == to
    if state == "sending" and to == "ambiguous":
        assert to in MOVES["sending"]
    else:
        assert to in MOVES[state]


@pytest.mark.parametrize(
    ("state", "found", "settled", "to"),
    [
        ("accepted", 7, False, "confirmed"),
        ("accepted", 5, False, "accepted"),
        ("accepted", 5, True, "superseded"),
        ("accepted", 3, True, "superseded"),
        ("accepted", None, True, "superseded"),
        ("accepted", 6, False, "accepted"),
        ("accepted", 6, True, "manual"),
        ("confirmed", 6, True, "confirmed"),
        ("ambiguous", 7, False, "accepted"),
        ("ambiguous", 5, False, "ambiguous"),
        ("ambiguous", 5, True, "superseded"),
        ("ambiguous", 6, True, "manual"),
        ("ambiguous", None, True, "superseded"),
    ],
)
def test_the_summary_settles_what_the_answer_did_not(state: State, found: int | None, settled: bool, to: str) -> None:
    assert state in ("accepted", "confirmed", "ambiguous")
    since = NOON - (SETTLED_AFTER if settled else SECOND)
    step = after_summary(state, 7, [0, 3, 5], found, since, NOON)
    assert step.state == to
    if found != 7:
        assert step.reason


@pytest.mark.parametrize("state", ["accepted", "ambiguous"])
@pytest.mark.parametrize("found", [5, 6, None])
def test_under_sum_nothing_that_may_have_arrived_is_planned_again(state: State, found: int | None) -> None:
    assert state in ("accepted", "ambiguous")
    assert after_summary(state, 7, [5], found, NOON - SETTLED_AFTER, NOON, "sum").state == "manual"
