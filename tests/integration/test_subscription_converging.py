"""Any order and any repetition of what is told of a subscription leads to the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import text

from control_plane.provider.values import Subscription, SubscriptionItem, SubscriptionStatus
from control_plane.subscriptions.converging import converge
from control_plane.unit import Actor, Unit, Units
from runtime.postgres import connect
from runtime.settings import Settings

ACTOR = Actor("test")
START = datetime(2026, 11, 1, tzinfo=UTC)
STATES: tuple[SubscriptionStatus, ...] = ("active", "past_due", "unpaid", "trialing", "paused")


class Undo(Exception):
    """Rolls an example back."""


@contextmanager
def undone(units: Units) -> Iterator[Unit]:
    """A unit of which nothing stays."""
    with suppress(Undo), units.begin(ACTOR) as unit:
        yield unit
        raise Undo


@pytest.fixture(scope="module")
def units(migrated: Settings) -> Iterator[Units]:
    with connect(migrated) as connection:
        connection.execute("INSERT INTO plans (plan_id, name) VALUES ('studio', 'Studio'), ('agency', 'Agency')")
        connection.execute("INSERT INTO tenants (tenant_id, stripe_customer_id) VALUES ('t1', 'cus_1')")
        for plan in ("studio", "agency"):
            connection.execute(
                "INSERT INTO stripe_prices (account, livemode, stripe_price_id, stripe_product_id, kind, cycle, currency,"
                " plan_id, terms, state) VALUES ('acct', false, %s, 'prod', 'base', 'monthly', 'usd', %s, '{}', 'active')",
                (f"price_{plan}", plan),
            )
    made = Units(migrated)
    yield made
    made.close()


def subscription(status: SubscriptionStatus, plan: str, *, number: int = 1) -> Subscription:
    return Subscription(
        id=f"sub_{number}",
        reference=None,
        customer_id="cus_1",
        status=status,
        currency="usd",
        interval="month",
        interval_count=1,
        items=(SubscriptionItem("si_1", f"price_{plan}", 1, None),),
        anchor=START,
        anchor_day=1,
        period_start=START,
        period_end=START + timedelta(days=30),
        cancel_at_period_end=False,
        cancel_at=None,
        canceled_at=None,
        ended_at=START + timedelta(days=9) if status == "canceled" else None,
        trial_start=START if status == "trialing" else None,
        trial_end=START + timedelta(days=30) if status == "trialing" else None,
        pause=None,
        payment_method_id=None,
        latest_invoice_id=None,
        created=START,
    )


def rows(unit: Unit) -> list[Any]:
    """Everything that stands, but for ids and times of ours."""
    here = unit.sql.execute(text("SELECT tenant_id, origin, plan_id, status, misaligned, ended_at FROM subscriptions")).all()
    parts = unit.sql.execute(text("SELECT provider_subscription_id, status, document FROM subscription_parts")).all()
    tenant = unit.sql.execute(text("SELECT plan_id, subscription_status FROM tenants WHERE tenant_id = 't1'")).all()
    return [sorted(map(tuple, here), key=str), sorted(map(tuple, parts), key=str), tenant]


@strategies.composite
def histories(draw: strategies.DrawFn) -> tuple[list[Subscription], list[int]]:
    """The states that a subscription went through, and in which order workers that read them get to write: each at least once,
    some again. What a worker read is what stood when it took its ticket, or something newer."""
    state = strategies.tuples(strategies.sampled_from(STATES), strategies.sampled_from(("studio", "agency")))
    states = draw(strategies.lists(state, min_size=1, max_size=5))
    history = [subscription(status, plan) for status, plan in states]
    if draw(strategies.booleans()):
        history.append(subscription("canceled", states[-1][1]))
    again = draw(strategies.lists(strategies.integers(0, len(history) - 1), max_size=4))
    return history, draw(strategies.permutations([*range(len(history)), *again]))


@given(histories())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_order_and_repetition_leads_to_the_same_rows(units: Units, told: tuple[list[Subscription], list[int]]) -> None:
    history, order = told
    ends = []
    for sequence in (list(range(len(history))), order):
        with undone(units) as unit:
            for number in sequence:
                # The ticket is the state's own number: who takes one later reads that state, or a later one.
                converge(unit, "stripe", history[number], number + 1)
            ends.append(rows(unit))
    assert ends[0] == ends[1]
    last = history[-1]
    plan = last.items[0].price_id.removeprefix("price_")
    assert ends[0][2] == [(plan, last.status)]


def test_what_is_over_stays_over_whatever_is_told_later(units: Units) -> None:
    with undone(units) as unit:
        assert converge(unit, "stripe", subscription("canceled", "studio"), 5)
        assert not converge(unit, "stripe", subscription("active", "agency"), 9)
        assert rows(unit)[2] == [("studio", "canceled")]


def test_one_of_nobody_here_is_left_alone(units: Units) -> None:
    stranger = replace(subscription("active", "studio"), customer_id="cus_of_nobody")
    with units.begin(ACTOR) as unit:
        assert not converge(unit, "stripe", stranger, 1)


def test_a_reference_that_is_made_up_gives_no_part_to_a_subscription_of_somebody_else(units: Units) -> None:
    made_up = replace(subscription("active", "studio"), reference="sub_aaaaaaaaaaaaaaaaaaaaaaaa.of_nobody.month")
    with undone(units) as unit:
        assert converge(unit, "stripe", made_up, 1)
        assert [row[1] for row in rows(unit)[0]] == ["imported"]
