"""Limits decide exactly, to a millionth, and say why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.limits import (
    PRICE_ONE,
    Credits,
    Decision,
    Limit,
    Reason,
    Standing,
    WhenUnavailable,
    decide,
    decide_away,
    decide_feature,
    is_active,
    overage,
    remaining,
)
from meterline_schemas.quantity import parse_quantity
from meterline_schemas.types import Micros

ON_A_PLAN = Standing(tenant_known=True, has_plan=True, active=True)

micros = st.integers(min_value=0, max_value=10**30).map(Micros)
signed_micros = st.integers(min_value=-(10**30), max_value=10**30).map(Micros)


def standing(used: str, limit: str | None, *, hard: bool = True, reserved: str = "0") -> Standing:
    quantity = None if limit is None else parse_quantity(limit)
    return replace(ON_A_PLAN, limit=Limit(quantity, hard), used=parse_quantity(used), reserved=parse_quantity(reserved))


@pytest.mark.parametrize(
    ("used", "quantity", "allowed"),
    [
        ("9.999999", "0.000001", True),
        ("9.999999", "0.000002", False),
        ("10", "0", True),
        ("10", "0.000001", False),
        ("10.000001", "0", False),
        ("0", "10", True),
        ("0", "10.000001", False),
    ],
)
def test_a_hard_limit_of_ten_is_exact_to_a_millionth(used: str, quantity: str, allowed: bool) -> None:
    decision = decide(standing(used, "10"), parse_quantity(quantity))
    assert decision.allowed is allowed
    assert decision.reason is (Reason.WITHIN_PLAN if allowed else Reason.LIMIT_EXCEEDED)


def test_remaining_is_what_was_left_before_the_quantity_that_is_asked_for() -> None:
    decision = decide(standing("5", "20"), parse_quantity("1"))
    assert decision == Decision(True, Reason.WITHIN_PLAN, parse_quantity("15"), False)


def test_a_soft_limit_lets_more_pass_as_overage_and_shows_what_is_exceeded_already() -> None:
    at_the_limit = decide(standing("10", "10", hard=False), parse_quantity("1"))
    assert at_the_limit == Decision(True, Reason.OVERAGE, Micros(0), False)
    beyond = decide(standing("10.000001", "10", hard=False), parse_quantity("1"))
    assert beyond == Decision(True, Reason.OVERAGE, Micros(0), True)


def test_what_is_reserved_is_not_left() -> None:
    assert decide(standing("4", "10", reserved="5"), parse_quantity("1")).allowed
    denied = decide(standing("4", "10", reserved="5"), parse_quantity("1.000001"))
    assert denied == Decision(False, Reason.LIMIT_EXCEEDED, parse_quantity("1"), False)


def test_no_limit_allows_everything_and_has_no_remaining() -> None:
    assert decide(standing("999999999999", None), parse_quantity("999999999999")) == Decision(True, Reason.UNLIMITED, None, False)


def test_a_limit_of_zero_is_a_limit() -> None:
    assert decide(standing("0", "0"), parse_quantity("0.000001")) == Decision(False, Reason.LIMIT_EXCEEDED, Micros(0), False)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (Standing(tenant_known=False), Reason.UNKNOWN_TENANT),
        (Standing(tenant_known=True, active=True), Reason.NO_SUBSCRIPTION),
        (Standing(tenant_known=True, active=False), Reason.NO_SUBSCRIPTION),
        (replace(ON_A_PLAN, active=False, limit=Limit(None, True)), Reason.SUBSCRIPTION_INACTIVE),
        (replace(ON_A_PLAN, feature_enabled=False, limit=Limit(None, True)), Reason.FEATURE_DISABLED),
        (ON_A_PLAN, Reason.NOT_IN_PLAN),
        (replace(ON_A_PLAN, feature_enabled=True), Reason.NOT_IN_PLAN),
    ],
)
def test_what_denies_before_any_figure_leaves_nothing(now: Standing, reason: Reason) -> None:
    assert decide(now, parse_quantity("1")) == Decision(False, reason, Micros(0), False)


@pytest.mark.parametrize(
    ("enabled", "active", "allowed", "reason"),
    [
        (True, True, True, Reason.WITHIN_PLAN),
        (True, False, False, Reason.SUBSCRIPTION_INACTIVE),
        (False, True, False, Reason.FEATURE_DISABLED),
        (None, True, False, Reason.NOT_IN_PLAN),
    ],
)
def test_a_feature_is_a_switch(enabled: bool | None, active: bool, allowed: bool, reason: Reason) -> None:
    decision = decide_feature(replace(ON_A_PLAN, active=active, feature_enabled=enabled))
    assert decision == Decision(allowed, reason, None if allowed else Micros(0), False)


def test_an_unknown_tenant_has_no_features() -> None:
    assert decide_feature(Standing(tenant_known=False)).reason is Reason.UNKNOWN_TENANT


def test_a_negative_quantity_is_no_question() -> None:
    with pytest.raises(ValueError, match="recorded, not asked"):
        decide(standing("0", "10"), Micros(-1))


@given(used=signed_micros, reserved=micros, limit=micros, quantity=micros)
def test_a_hard_limit_allows_exactly_what_it_holds(used: Micros, reserved: Micros, limit: Micros, quantity: Micros) -> None:
    now = replace(ON_A_PLAN, limit=Limit(limit, hard=True), used=used, reserved=reserved)
    decision = decide(now, quantity)
    assert decision.allowed == (used + reserved + quantity <= limit)
    assert decision.remaining == max(0, limit - used - reserved)
    assert decision.is_exceeded == (used > limit)
    # What is left is allowed, and a millionth more is not, unless even nothing is too much.
    assert decision.remaining is not None
    if used + reserved <= limit:
        assert decide(now, decision.remaining).allowed
    assert not decide(now, Micros(decision.remaining + 1)).allowed


@given(used=signed_micros, reserved=micros, limit=st.none() | micros, quantity=micros)
def test_a_soft_or_absent_limit_never_denies(used: Micros, reserved: Micros, limit: Micros | None, quantity: Micros) -> None:
    decision = decide(replace(ON_A_PLAN, limit=Limit(limit, hard=False), used=used, reserved=reserved), quantity)
    assert decision.allowed
    if limit is None:
        assert decision.reason is Reason.UNLIMITED
    else:
        assert (decision.reason is Reason.OVERAGE) == (used + reserved + quantity > limit)


@given(used=signed_micros, limit=micros)
def test_used_is_what_is_within_the_limit_plus_the_overage(used: Micros, limit: Micros) -> None:
    left = remaining(limit, used, Micros(0))
    assert left is not None
    assert used == limit - left + overage(limit, used)
    assert min(left, overage(limit, used)) == 0


@pytest.mark.parametrize(
    ("status", "subscription", "let_in"),
    [
        ("active", None, True),
        ("active", "active", True),
        ("active", "trialing", True),
        ("active", "past_due", True),
        ("active", "unpaid", False),
        ("active", "canceled", False),
        ("active", "incomplete", False),
        ("active", "incomplete_expired", False),
        ("active", "paused", False),
        ("inactive", "active", False),
        ("inactive", None, False),
        (None, None, False),
    ],
)
def test_a_tenant_is_let_in_by_the_operator_and_by_its_subscription(
    status: str | None, subscription: str | None, let_in: bool
) -> None:
    assert is_active(status, subscription) is let_in


@pytest.mark.parametrize(
    ("price", "balance", "quantity", "allowed"),
    [
        ("0.5", "1", "2", True),
        ("0.5", "1", "2.000001", False),
        ("0.333333", "0.333333", "1", True),
        # A cost below a millionth is rounded up: nothing is had for nothing.
        ("0.000000000001", "0", "0.000001", False),
        ("0.000000000001", "0.000001", "0.000001", True),
        ("3", "0", "0", True),
    ],
)
def test_credits_pay_for_the_quantity_or_it_is_denied(price: str, balance: str, quantity: str, allowed: bool) -> None:
    whole, _, fraction = price.partition(".")
    priced = Credits(int(whole) * PRICE_ONE + int(fraction.ljust(12, "0") or 0), parse_quantity(balance))
    decision = decide(replace(standing("0", None), credits=priced), parse_quantity(quantity))
    assert (decision.allowed, decision.reason) == (allowed, Reason.UNLIMITED if allowed else Reason.INSUFFICIENT_CREDITS)


def test_a_limit_denies_before_credits_are_looked_at() -> None:
    broke = replace(standing("10", "10"), credits=Credits(PRICE_ONE, Micros(0)))
    assert decide(broke, parse_quantity("1")).reason is Reason.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    ("policy", "used", "reason"),
    [
        ("fail_open", "5", Reason.DEGRADED_ALLOW),
        ("fail_open", "10", Reason.DEGRADED_DENY),
        ("fail_closed", "5", Reason.DEGRADED_DENY),
        ("fail_closed", "10", Reason.DEGRADED_DENY),
    ],
)
def test_an_outage_is_answered_as_the_limit_says_and_lets_nobody_in_who_was_denied(
    policy: WhenUnavailable, used: str, reason: Reason
) -> None:
    limit = Limit(parse_quantity("10"), hard=True, when_unavailable=policy)
    decision = decide_away(replace(ON_A_PLAN, limit=limit, used=parse_quantity(used)), parse_quantity("1"), None)
    assert decision is not None
    assert (decision.reason, decision.allowed) == (reason, reason is Reason.DEGRADED_ALLOW)
    assert decision.remaining == parse_quantity("10") - parse_quantity(used)


@pytest.mark.parametrize("otherwise", [None, "fail_open", "fail_closed"])
def test_what_no_limit_says_anything_of_goes_by_the_default(otherwise: WhenUnavailable | None) -> None:
    silent = standing("5", "10")
    assert decide_away(silent, parse_quantity("1"), otherwise) is None
    unknown = decide_away(None, parse_quantity("1"), otherwise)
    feature = decide_away(replace(ON_A_PLAN, feature_enabled=True), None, otherwise)
    unplanned = decide_away(ON_A_PLAN, parse_quantity("1"), otherwise)
    if otherwise is None:
        assert (unknown, feature, unplanned) == (None, None, None)
    else:
        assert unknown is not None
        assert feature is not None
        assert unplanned is not None
        assert (unknown.allowed, feature.allowed, unplanned.allowed) == (otherwise == "fail_open",) * 2 + (False,)
