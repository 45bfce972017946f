"""Promo codes: made here and at Stripe, redeemed exactly as often as they may be, given back when nothing came of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from control_plane.promo_codes import service
from control_plane.promo_codes.schemas import PromoCode, PromoCodeOrder
from control_plane.provider.errors import Ambiguous
from control_plane.refusals import Refusal
from control_plane.subscriptions import service as subscriptions
from control_plane.subscriptions.views import CreateOrder, UpdateOrder
from control_plane.unit import Units
from control_plane.webhooks.messages import stripe_message
from control_plane.webhooks.worker import Worker
from runtime import postgres
from runtime.settings import Settings
from store import inbox
from tests.fakes.webhook_senders import stripe_event
from tests.integration.selling import ACTOR, CARD, Shop, shop


@pytest.fixture(scope="module")
def sold(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(migrated, tmp_path_factory.mktemp("stripe")) as running:
        yield running


def made(sold: Shop, code: str, **terms: Any) -> PromoCode:
    order = PromoCodeOrder(code=code, **({"percent_off": Decimal("12.5")} | terms))
    return service.create(sold.units, sold.provider, ACTOR, order)


def shown(sold: Shop, promo_code: PromoCode) -> PromoCode:
    with sold.units.begin(ACTOR) as unit:
        return service.show(unit, promo_code.id)


def reason(sold: Shop, code: str, tenant_id: str, plan_id: str | None = None, currency: str | None = None) -> str | None:
    with sold.units.begin(ACTOR) as unit:
        return service.validate(unit, tenant_id, code, plan_id, currency).reason


def webhook(sold: Shop, kind: str, subject: str) -> None:
    """Stripe tells of it, and the worker works it off."""
    message = stripe_message(stripe_event(f"evt_{kind}_{subject}_{datetime.now(UTC).timestamp()}", kind, {"id": subject}))
    with postgres.connect(sold.settings, autocommit=True) as connection:
        name = inbox.Name("stripe", "", False, message.id)
        inbox.put(connection, name, message.kind, message.subject, dict(message.kept))
        while Worker(sold.parts).turn(connection, threading.Event()):
            pass
        assert [row.last_error for row in inbox.listed(connection, "stripe", "waiting", 10)] == []


def anybody(_: str) -> None:
    """Everything is in reach."""


def test_of_a_thousand_who_redeem_at_once_exactly_as_many_succeed_as_uses_are_left(sold: Shop) -> None:
    promo_code = made(sold, "RACE100", max_redemptions=100)
    sold.execute("INSERT INTO tenants (tenant_id) SELECT 'racer_' || n FROM generate_series(1, 1000) n")
    outcomes: list[str] = []
    units = Units(sold.settings.model_copy(update={"postgres_pool_max": 16, "postgres_timeout_s": 60.0}))

    def redeem(number: int) -> None:
        tenant_id = f"racer_{number}"
        try:
            with units.begin(ACTOR) as unit:
                service.redeem(unit, tenant_id, "race100", plan_id=None, currency=None, subscription_id=f"sub_{number}")
        except Refusal as refusal:
            outcomes.append(refusal.code)
        else:
            outcomes.append("redeemed")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(redeem, range(1, 1001)))
    units.close()
    assert outcomes.count("redeemed") == 100
    assert outcomes.count("promo_code_used_up") == 900
    assert shown(sold, promo_code).redeemed == 100
    assert sold.row("SELECT count(*) FROM promo_redemptions WHERE promo_code_id = %s", promo_code.id) == (100,)
    with pytest.raises(psycopg.errors.CheckViolation):
        sold.execute("UPDATE promo_codes SET redeemed = 101 WHERE promo_code_id = %s", promo_code.id)


def test_one_organization_that_races_itself_gets_its_uses_and_no_more(sold: Shop) -> None:
    made(sold, "TWICE", max_per_organization=2)
    tenant_id = sold.tenant()
    outcomes: list[str] = []

    def redeem(number: int) -> None:
        try:
            with sold.units.begin(ACTOR) as unit:
                service.redeem(unit, tenant_id, "TWICE", plan_id=None, currency=None, subscription_id=f"sub_own_{number}")
        except Refusal as refusal:
            outcomes.append(refusal.code)
        else:
            outcomes.append("redeemed")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(redeem, range(12)))
    assert sorted(outcomes) == ["promo_code_used_by_organization"] * 10 + ["redeemed"] * 2


def test_a_code_is_made_at_stripe_with_its_coupon_and_ordering_it_again_makes_no_second(sold: Shop) -> None:
    promo_code = made(sold, "AMOUNT5", percent_off=None, amount_off=500, currency="usd", max_redemptions=7)
    assert made(sold, "amount5", percent_off=None, amount_off=500, currency="usd", max_redemptions=7) == promo_code
    client = sold.stripe.client().v1
    (there,) = client.promotion_codes.list({"code": "AMOUNT5"}).data
    assert (there.id, there.max_redemptions, there.active) == (promo_code.provider_code_id, 7, True)
    assert promo_code.ready
    with pytest.raises(Refusal) as refusal:
        made(sold, "AMOUNT5", percent_off=None, amount_off=600, currency="usd")
    assert refusal.value.code == "promo_code_exists"


def test_an_order_that_stripe_did_not_answer_goes_on_where_it_was(sold: Shop) -> None:
    sold.stripe.admin("faults", {"rates": {"drop": 1.0}, "path": "/v1/promotion_codes", "seed": 1})
    with pytest.raises(Ambiguous):
        made(sold, "UNCLEAR")
    sold.stripe.admin("faults", {})
    assert reason(sold, "UNCLEAR", sold.tenant()) == "not_ready"
    assert made(sold, "UNCLEAR").ready
    assert len(sold.stripe.client().v1.promotion_codes.list({"code": "UNCLEAR"}).data) == 1


def test_terms_are_held_and_the_reason_is_told(sold: Shop) -> None:
    tenant_id, now = sold.tenant(), datetime.now(UTC)
    made(sold, "STUDIOUSD", plan_ids=["studio"], currency="usd")
    made(sold, "LATER", starts_at=now + timedelta(hours=1))
    made(sold, "SOON", expires_at=now + timedelta(hours=1))
    assert reason(sold, "studiousd", tenant_id, "studio", "usd") is None
    assert reason(sold, "STUDIOUSD", tenant_id, "agency", "usd") == "wrong_plan"
    assert reason(sold, "STUDIOUSD", tenant_id, "studio", "jpy") == "wrong_currency"
    assert reason(sold, "LATER", tenant_id) == "not_started"
    assert reason(sold, "SOON", tenant_id) is None
    sold.execute("UPDATE promo_codes SET expires_at = now() WHERE code = 'SOON'")
    assert reason(sold, "SOON", tenant_id) == "expired"
    assert reason(sold, "NOSUCH", tenant_id) == "unknown_code"


def test_a_subscription_is_made_with_a_code_and_stripe_discounts_it(sold: Shop) -> None:
    promo_code = made(sold, "HALF", percent_off=Decimal(50), duration="forever", max_redemptions=1)
    tenant_id = sold.tenant()
    order = CreateOrder("studio", currency="usd", payment_method_id=CARD, promo_code="half")
    subscriptions.create(sold.units, sold.provider, tenant_id, order, ACTOR)
    (there,) = sold.at_stripe(tenant_id)
    assert len(there.discounts) == 1
    assert shown(sold, promo_code).redeemed == 1
    other = sold.tenant()
    with pytest.raises(Refusal) as refusal:
        subscriptions.create(sold.units, sold.provider, other, order, ACTOR)
    assert refusal.value.code == "promo_code_used_up"
    assert sold.at_stripe(other) == []


def test_a_running_subscription_redeems_a_code_once_however_often_it_asks(sold: Shop) -> None:
    promo_code = made(sold, "LOYAL")
    tenant_id = sold.tenant()
    plain = CreateOrder("studio", currency="usd", payment_method_id=CARD)
    view = subscriptions.create(sold.units, sold.provider, tenant_id, plain, ACTOR)
    for _ in range(2):
        subscriptions.update(sold.units, sold.provider, view.id, UpdateOrder(promo_code="LOYAL"), anybody, ACTOR)
    (there,) = sold.at_stripe(tenant_id)
    assert len(there.discounts) == 1
    assert shown(sold, promo_code).redeemed == 1


def test_what_stripe_refuses_gives_the_use_back(sold: Shop) -> None:
    promo_code = made(sold, "ONLYONE", max_redemptions=1)
    tenant_id = sold.tenant()
    with pytest.raises(Refusal):
        subscriptions.create(
            sold.units, sold.provider, tenant_id, CreateOrder("studio", currency="usd", promo_code="ONLYONE"), ACTOR
        )
    assert shown(sold, promo_code).redeemed == 0
    assert reason(sold, "ONLYONE", tenant_id) is None
    released = sold.rows("SELECT tenant_id FROM audit WHERE what = 'promo_code.released' AND subject = %s", str(promo_code.id))
    assert released == [(tenant_id,)]
    order = CreateOrder("studio", currency="usd", payment_method_id=CARD, promo_code="ONLYONE")
    subscriptions.create(sold.units, sold.provider, tenant_id, order, ACTOR)
    assert shown(sold, promo_code).redeemed == 1


def test_an_ended_code_is_given_to_nobody_here_and_there(sold: Shop) -> None:
    promo_code = made(sold, "ENDS")
    ended = service.deactivate(sold.units, sold.provider, ACTOR, promo_code.id)
    assert not ended.active
    assert not sold.stripe.client().v1.promotion_codes.retrieve(str(promo_code.provider_code_id)).active
    assert reason(sold, "ENDS", sold.tenant()) == "inactive"
    assert made(sold, "ENDS").id != promo_code.id
    with pytest.raises(Refusal):
        service.deactivate(sold.units, sold.provider, ACTOR, UUID(int=7))


def test_what_is_ended_at_stripe_is_ended_here(sold: Shop) -> None:
    switched, bare = made(sold, "SWITCHED"), made(sold, "BARE")
    client = sold.stripe.client().v1
    client.promotion_codes.update(str(switched.provider_code_id), {"active": False})
    webhook(sold, "promotion_code.updated", str(switched.provider_code_id))
    assert reason(sold, "SWITCHED", sold.tenant()) == "inactive"
    (coupon,) = sold.row("SELECT provider_coupon_id FROM promo_codes WHERE promo_code_id = %s", bare.id)
    client.coupons.delete(coupon)
    webhook(sold, "coupon.deleted", coupon)
    assert reason(sold, "BARE", sold.tenant()) == "inactive"
