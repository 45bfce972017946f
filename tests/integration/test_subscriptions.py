"""Subscriptions against the local Stripe and real Postgres: what Stripe holds, what stands here, what checks read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from control_plane.provider import observing
from control_plane.provider.values import ItemOrder
from control_plane.refusals import Refusal
from control_plane.subscriptions import recovering, service
from control_plane.subscriptions.converging import converge
from control_plane.subscriptions.views import CreateOrder, PauseOrder, SubscriptionView, UpdateOrder
from runtime.settings import Settings
from tests.integration.selling import ACTOR, CARD, DECLINED, Shop, shop


@pytest.fixture(scope="module")
def sold(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(migrated, tmp_path_factory.mktemp("stripe")) as running:
        yield running


def create(sold: Shop, tenant_id: str, plan: str = "studio", **order: object) -> SubscriptionView:
    wanted = CreateOrder(**{"plan_id": plan, "currency": "usd", "payment_method_id": CARD, **order})  # type: ignore[arg-type]
    return service.create(sold.units, sold.provider, tenant_id, wanted, ACTOR)


def update(sold: Shop, view: SubscriptionView, **order: object) -> SubscriptionView:
    return service.update(sold.units, sold.provider, view.id, UpdateOrder(**order), anybody, ACTOR)  # type: ignore[arg-type]


def anybody(_: str) -> None:
    """Everything is in reach."""


def refused(call: object, code: str) -> Refusal:
    assert callable(call)
    with pytest.raises(Refusal) as error:
        call()
    assert error.value.code == code, (error.value.code, error.value.message)
    return error.value


def standing(sold: Shop, tenant_id: str) -> tuple[object, ...]:
    """What checks read."""
    return sold.row("SELECT plan_id, subscription_status FROM tenants WHERE tenant_id = %s", tenant_id)


def test_a_subscription_is_made_at_stripe_and_stands_here_and_the_tenant_is_on_its_plan(sold: Shop) -> None:
    tenant_id = sold.tenant(plan="free", anchor_day=31)
    made = create(sold, tenant_id, quantity=3)
    (there,) = sold.at_stripe(tenant_id)
    assert (made.status, made.plan_id, made.billing_cycle, made.quantity) == ("active", "studio", "monthly", 3)
    assert there.status == "active"
    assert {item.price.id: item.quantity for item in there["items"].data if item.price.recurring.usage_type == "licensed"} == {
        sold.prices["studio usd monthly"]: 3
    }
    assert sold.prices["overage usd"] in {item.price.id for item in there["items"].data}
    assert there.billing_cycle_anchor_config.day_of_month == 31
    assert made.current_period_end.astimezone(UTC).strftime("%H:%M:%S") == "00:00:00"
    assert not made.misaligned
    assert standing(sold, tenant_id) == ("studio", "active")
    with sold.units.begin(ACTOR) as unit:
        assert service.show(unit, tenant_id) == service.get(unit, made.id, anybody) == made


def test_one_organization_has_one_subscription(sold: Shop) -> None:
    tenant_id = sold.tenant()
    create(sold, tenant_id)
    refused(lambda: create(sold, tenant_id), "already_subscribed")
    assert len(sold.at_stripe(tenant_id)) == 1


def test_two_at_once_make_one(sold: Shop) -> None:
    tenant_id = sold.tenant()
    ended: list[str] = []

    def try_it() -> None:
        try:
            create(sold, tenant_id)
        except Refusal as refusal:
            ended.append(refusal.code)
        else:
            ended.append("made")

    threads = [threading.Thread(target=try_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended.count("made") == 1, ended
    assert set(ended) <= {"made", "subscription_busy", "already_subscribed"}
    assert len(sold.at_stripe(tenant_id)) == 1


def test_a_card_that_is_declined_leaves_it_incomplete_and_the_tenant_goes_on_as_before(sold: Shop) -> None:
    tenant_id = sold.tenant(plan="free")
    made = create(sold, tenant_id, payment_method_id=DECLINED)
    assert made.status == "incomplete"
    assert standing(sold, tenant_id) == ("free", None)


def test_nothing_to_pay_with_is_refused_with_the_remedy_and_leaves_nothing(sold: Shop) -> None:
    tenant_id = sold.tenant()
    refusal = refused(lambda: create(sold, tenant_id, payment_method_id=None), "no_payment_method")
    assert refusal.kind == "payment_required"
    assert sold.at_stripe(tenant_id) == []
    assert sold.rows("SELECT 1 FROM subscriptions WHERE tenant_id = %s", tenant_id) == []
    assert create(sold, tenant_id).status == "active"


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"plan": "nothing"}, "unknown_plan"),
        ({"plan": "free"}, "plan_not_priced"),
        ({"currency": "eur"}, "plan_not_priced"),
        ({"currency": "jpy", "billing_cycle": "yearly"}, "plan_not_priced"),
        ({"currency": None}, "currency_required"),
        ({"items": (ItemOrder("price_of_nothing", 1),)}, "provider_refused"),
        ({"payment_method_id": "pm_of_nobody"}, "not_found"),
    ],
)
def test_what_cannot_be_sold_is_refused(sold: Shop, order: dict[str, object], code: str) -> None:
    tenant_id = sold.tenant()
    refused(lambda: create(sold, tenant_id, **order), code)  # type: ignore[arg-type]
    assert sold.at_stripe(tenant_id) == []


@pytest.mark.parametrize(("currency", "amount"), [("jpy", 7000), ("kwd", 14990)])
def test_a_currency_without_and_one_with_three_decimals(sold: Shop, currency: str, amount: int) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id, currency=currency)
    assert made.currency == currency
    upcoming = sold.provider.upcoming_invoice(sold.at_stripe(tenant_id)[0].id)
    assert (upcoming.currency, max(line.amount for line in upcoming.lines)) == (currency, amount)
    again = update(sold, made, quantity=2)
    assert (again.currency, again.quantity) == (currency, 2)


def test_a_trial_lets_in_and_says_when_it_ends(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id, trial_days=14)
    assert made.status == "trialing"
    assert made.trial_end is not None
    assert timedelta(days=13) < made.trial_end - datetime.now(UTC) < timedelta(days=15)
    assert standing(sold, tenant_id) == ("studio", "trialing")
    assert update(sold, made, end_trial=True).status == "active"


def test_another_plan_takes_its_price_and_its_usage_along(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id)
    changed = update(sold, made, plan_id="agency")
    assert (changed.id, changed.plan_id) == (made.id, "agency")
    (there,) = sold.at_stripe(tenant_id)
    assert [item.price.id for item in there["items"].data] == [sold.prices["agency usd monthly"]]
    assert standing(sold, tenant_id) == ("agency", "active")
    back = update(sold, changed, plan_id="studio")
    (there,) = sold.at_stripe(tenant_id)
    assert {item.price.id for item in there["items"].data} == {sold.prices["studio usd monthly"], sold.prices["overage usd"]}
    assert back.plan_id == "studio"


def test_items_beside_the_plan_stay_through_a_change_until_they_are_replaced(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id, items=(ItemOrder(sold.prices["addon"], 2),))
    assert made.items == (ItemOrder(sold.prices["addon"], 2),)
    assert update(sold, made, plan_id="agency").items == made.items
    assert update(sold, made, items=()).items == ()


def test_a_year_is_paid_by_one_part_and_its_usage_by_a_monthly_one(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id, billing_cycle="yearly")
    by_interval = {one["items"].data[0].price.recurring.interval: one for one in sold.at_stripe(tenant_id)}
    assert set(by_interval) == {"month", "year"}
    assert [item.price.id for item in by_interval["month"]["items"].data] == [sold.prices["overage usd"]]
    assert (made.billing_cycle, made.status) == ("yearly", "active")
    monthly = update(sold, made, billing_cycle="monthly")
    assert (monthly.id, monthly.billing_cycle, monthly.status) == (made.id, "monthly", "active")
    (alive,) = [one for one in sold.at_stripe(tenant_id) if one.status == "active"]
    assert {item.price.id for item in alive["items"].data} == {sold.prices["studio usd monthly"], sold.prices["overage usd"]}
    yearly = update(sold, monthly, billing_cycle="yearly")
    assert (yearly.billing_cycle, yearly.status) == ("yearly", "active")
    assert not yearly.misaligned
    assert len([one for one in sold.at_stripe(tenant_id) if one.status == "active"]) == 2


def test_a_year_that_is_declined_takes_back_what_was_made_for_it(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id)
    refused(lambda: update(sold, made, billing_cycle="yearly", payment_method_id=DECLINED), "payment_failed")
    with sold.units.begin(ACTOR) as unit:
        after = service.show(unit, tenant_id)
    assert (after.id, after.billing_cycle, after.status) == (made.id, "monthly", "active")
    (alive,) = [one for one in sold.at_stripe(tenant_id) if one.status == "active"]
    assert sold.prices["studio usd monthly"] in {item.price.id for item in alive["items"].data}


def test_a_preview_says_what_a_change_costs_and_changes_nothing(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id)
    preview = service.preview(sold.units, sold.provider, made.id, UpdateOrder(plan_id="agency"), anybody, ACTOR)
    (invoice,) = preview.invoices
    prorations = sorted(line.amount for line in invoice.lines if line.proration)
    assert prorations[0] < 0 < prorations[-1]
    assert preview.proration == sum(prorations)
    assert preview.total == invoice.total
    with sold.units.begin(ACTOR) as unit:
        assert service.show(unit, tenant_id) == made


def test_cancelled_at_the_periods_end_it_goes_on_and_may_be_taken_back(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id)
    ending = service.cancel(sold.units, sold.provider, made.id, anybody, ACTOR)
    assert (ending.status, ending.cancel_at_period_end) == ("active", True)
    again = service.reactivate(sold.units, sold.provider, made.id, anybody, ACTOR)
    assert (again.status, again.cancel_at_period_end) == ("active", False)


def test_cancelled_now_nothing_may_be_used_and_another_may_be_made(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id, billing_cycle="yearly")
    over = service.cancel(sold.units, sold.provider, made.id, anybody, ACTOR, at_period_end=False, prorate=True)
    assert over.status == "canceled"
    assert over.ended_at is not None
    assert {one.status for one in sold.at_stripe(tenant_id)} == {"canceled"}
    assert standing(sold, tenant_id) == ("studio", "canceled")
    for call in (service.cancel, service.reactivate):
        refused(lambda call=call: call(sold.units, sold.provider, made.id, anybody, ACTOR), "subscription_over")
    assert create(sold, tenant_id, plan="agency", payment_method_id=None).id != made.id
    assert standing(sold, tenant_id) == ("agency", "active")


def test_the_usage_of_a_year_ends_after_the_year_was_cancelled_elsewhere(sold: Shop) -> None:
    tenant_id = sold.tenant()
    create(sold, tenant_id, billing_cycle="yearly")
    year = next(one for one in sold.at_stripe(tenant_id) if one["items"].data[0].price.recurring.interval == "year")
    sold.stripe.client().v1.subscriptions.cancel(year.id)
    follow(sold, year.id)
    assert standing(sold, tenant_id) == ("studio", "canceled")
    assert recovering.end_strays(sold.units) == 1
    assert recovering.recover(sold.units, sold.provider) == 1
    assert {one.status for one in sold.at_stripe(tenant_id)} == {"canceled"}
    assert recovering.end_strays(sold.units) == 0


def test_collection_is_paused_and_resumed(sold: Shop) -> None:
    made = create(sold, sold.tenant())
    until = (datetime.now(UTC) + timedelta(days=9)).replace(microsecond=0)
    paused = service.pause(sold.units, sold.provider, made.id, PauseOrder("void", until), anybody, ACTOR)
    assert (paused.status, paused.pause_behavior, paused.pause_resumes_at) == ("active", "void", until)
    assert service.resume(sold.units, sold.provider, made.id, anybody, ACTOR).pause_behavior is None


def follow(sold: Shop, provider_id: str) -> bool:
    """As the webhook's worker does."""
    seen = observing.ticket(sold.units, ACTOR)
    found = sold.provider.subscription(provider_id)
    with sold.units.begin(ACTOR) as unit:
        return converge(unit, sold.provider.name, found, seen)


def test_one_that_was_made_elsewhere_is_imported_and_said_to_be_misaligned(sold: Shop) -> None:
    tenant_id = sold.tenant(anchor_day=31)
    made = create(sold, tenant_id)
    service.cancel(sold.units, sold.provider, made.id, anybody, ACTOR, at_period_end=False)
    customer = sold.at_stripe(tenant_id)[0].customer
    assert isinstance(customer, str)
    elsewhere = sold.stripe.client().v1.subscriptions.create(
        {"customer": customer, "items": [{"price": sold.prices["agency usd monthly"]}]}
    )
    assert follow(sold, elsewhere.id)
    with sold.units.begin(ACTOR) as unit:
        shown = service.show(unit, tenant_id)
    assert (shown.imported, shown.misaligned, shown.plan_id) == (True, True, "agency")
    assert standing(sold, tenant_id) == ("agency", "active")


def test_an_older_observation_never_takes_the_place_of_a_newer_one(sold: Shop) -> None:
    tenant_id = sold.tenant()
    made = create(sold, tenant_id)
    (there,) = sold.at_stripe(tenant_id)
    early = observing.ticket(sold.units, ACTOR)
    before = sold.provider.subscription(there.id)
    update(sold, made, plan_id="agency")
    with sold.units.begin(ACTOR) as unit:
        assert not converge(unit, "stripe", before, early)
    assert standing(sold, tenant_id) == ("agency", "active")


def test_what_stripe_does_not_answer_is_brought_to_its_end_later(sold: Shop) -> None:
    tenant_id = sold.tenant()
    sold.stripe.admin("faults", {"rates": {"error": 1.0}, "path": "/v1/subscriptions", "seed": 3})
    try:
        refusal = refused(lambda: create(sold, tenant_id), "provider_unclear")
    finally:
        sold.stripe.admin("faults", {})
    assert refusal.kind == "unavailable"
    refused(lambda: create(sold, tenant_id), "subscription_busy")
    sold.execute("UPDATE subscription_operations SET lease_until = now() - interval '1 s' WHERE tenant_id = %s", tenant_id)
    assert recovering.recover(sold.units, sold.provider) == 1
    assert [one.status for one in sold.at_stripe(tenant_id)] == ["active"]
    assert standing(sold, tenant_id) == ("studio", "active")


def test_a_lost_answer_makes_no_second_subscription(sold: Shop) -> None:
    tenant_id = sold.tenant()
    sold.stripe.admin("faults", {"rates": {"drop": 1.0}, "path": "/v1/subscriptions", "seed": 3})
    try:
        refused(lambda: create(sold, tenant_id), "provider_unclear")
    finally:
        sold.stripe.admin("faults", {})
    assert len(sold.at_stripe(tenant_id)) == 1
    sold.execute("UPDATE subscription_operations SET lease_until = now() - interval '1 s' WHERE tenant_id = %s", tenant_id)
    assert recovering.recover(sold.units, sold.provider) == 1
    assert len(sold.at_stripe(tenant_id)) == 1
    assert standing(sold, tenant_id) == ("studio", "active")
