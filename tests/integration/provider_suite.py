"""The one suite that every payment provider passes against a local server.

Subclass `ProviderSuite` in a test module that has a fixture `world`; what a provider lacks (`Provider.capabilities`) is held to
be refused as such.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from control_plane.provider.errors import UNSUPPORTED, Ambiguous, Away, NotFound, Refused
from control_plane.provider.port import Capability, Provider
from control_plane.provider.values import (
    Customer,
    CustomerChange,
    CustomerOrder,
    ItemChange,
    ItemOrder,
    PromotionCodeOrder,
    Subscription,
    SubscriptionChange,
    SubscriptionOrder,
    UsageEvent,
)

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
DAY_S = 86_400
MONTHLY, YEARLY, OTHER, METERED = "monthly", "yearly", "other", "metered"


class ProviderWorld(ABC):
    """A provider, and what the suite cannot do through its port."""

    provider: Provider

    @abstractmethod
    def price(self, name: str) -> str:
        """The id of a price: monthly 4900, yearly 49000, other (monthly) 9900, metered; each in usd, in minor units."""

    @abstractmethod
    def token(self, *, works: bool = True) -> str:
        """What a client hands over after it made a payment method with the provider."""

    @abstractmethod
    def meter(self) -> str:
        """The name of the meter that the metered price counts."""

    @abstractmethod
    def advance(self, seconds: int) -> None:
        """Moves the provider's clock, which stands at NOW at first."""

    @abstractmethod
    def unanswered(self, call: Callable[[], object]) -> None:
        """Makes the call so that the provider does its work and the answer is lost. The call's error is raised."""

    @abstractmethod
    def failing(self, call: Callable[[], object]) -> None:
        """Makes the call so that the provider answers 500 and does nothing."""

    @abstractmethod
    def with_wrong_credentials(self) -> Provider:
        """The same provider with credentials of nobody."""

    @abstractmethod
    def with_nobody_there(self) -> Provider:
        """The same provider at an address where nobody listens."""

    def has(self, capability: Capability) -> bool:
        return capability in self.provider.capabilities

    def key(self) -> str:
        return secrets.token_hex(12)

    def customer(self, *, pays: bool = True) -> Customer:
        """A customer, with something to pay with."""
        provider = self.provider
        made = provider.create_customer(CustomerOrder(f"tnt_{self.key()}", "Northlight", "a@example.com", "usd"), self.key())
        if pays and self.has("payment_methods"):
            method = provider.attach_payment_method(made.id, self.token(), self.key())
            provider.set_default_payment_method(made.id, method.id, self.key())
        return made

    def order(self, customer: Customer, *prices: str) -> SubscriptionOrder:
        items = tuple(ItemOrder(self.price(name)) for name in prices or (MONTHLY,))
        return SubscriptionOrder(f"sub_{self.key()}", customer.id, items, "usd")

    def subscription(self) -> Subscription:
        return self.provider.create_subscription(self.order(self.customer()), self.key())


def refused_as_unsupported(call: Callable[[], object]) -> None:
    with pytest.raises(Refused) as refused:
        call()
    assert refused.value.code == UNSUPPORTED


class ProviderSuite:
    """Each test takes a `world`."""

    def test_the_account_is_told_and_no_money_moves_in_a_test(self, world: ProviderWorld) -> None:
        assert world.provider.account()
        assert not world.provider.livemode

    def test_a_customer_is_made_changed_found_and_listed(self, world: ProviderWorld) -> None:
        provider = world.provider
        made = provider.create_customer(CustomerOrder(f"tnt_{world.key()}", "Northlight", "a@example.com"), world.key())
        assert (made.name, made.email) == ("Northlight", "a@example.com")
        changed = provider.update_customer(made.id, CustomerChange(name="Southlight"), world.key())
        assert (changed.name, changed.email) == ("Southlight", "a@example.com")
        assert provider.customer(made.id) == changed
        assert made.reference is not None
        assert provider.find_customer(made.reference) == changed
        assert provider.find_customer("tnt_nobody") is None
        page = provider.customers(limit=1)
        assert len(page.items) == 1
        other = provider.create_customer(CustomerOrder(f"tnt_{world.key()}", "Other"), world.key())
        first = provider.customers(limit=1)
        assert first.next is not None
        second = provider.customers(after=first.next, limit=1)
        assert {first.items[0].id, second.items[0].id} == {other.id, made.id}

    def test_one_key_makes_one_customer_and_one_subscription(self, world: ProviderWorld) -> None:
        provider = world.provider
        order, key = CustomerOrder(f"tnt_{world.key()}", "Northlight"), world.key()
        assert provider.create_customer(order, key) == provider.create_customer(order, key)
        wanted, key = world.order(world.customer()), world.key()
        first = provider.create_subscription(wanted, key)
        assert provider.create_subscription(wanted, key).id == first.id
        assert len(provider.subscriptions(wanted.customer_id).items) == 1

    def test_a_lost_answer_is_ambiguous_and_the_same_key_gives_it(self, world: ProviderWorld) -> None:
        wanted, key = world.order(world.customer()), world.key()
        with pytest.raises(Ambiguous) as lost:
            world.unanswered(lambda: world.provider.create_subscription(wanted, key))
        assert not lost.value.ended
        found = world.provider.find_subscription(wanted.customer_id, wanted.reference)
        assert found is not None
        assert world.provider.create_subscription(wanted, key).id == found.id

    def test_a_failure_that_was_answered_is_ambiguous_and_over(self, world: ProviderWorld) -> None:
        wanted = world.order(world.customer())
        with pytest.raises(Ambiguous) as failed:
            world.failing(lambda: world.provider.create_subscription(wanted, world.key()))
        assert failed.value.ended
        assert world.provider.find_subscription(wanted.customer_id, wanted.reference) is None
        assert world.provider.create_subscription(wanted, world.key()).reference == wanted.reference

    def test_what_is_not_there_is_not_found(self, world: ProviderWorld) -> None:
        provider = world.provider
        for call in (
            lambda: provider.customer("cus_nobody"),
            lambda: provider.subscription("sub_nothing"),
            lambda: provider.invoice("in_nothing"),
            lambda: provider.update_customer("cus_nobody", CustomerChange(name="x"), world.key()),
            lambda: provider.cancel_now("sub_nothing", world.key()),
        ):
            with pytest.raises(NotFound):
                call()

    def test_an_order_that_cannot_be_is_refused(self, world: ProviderWorld) -> None:
        customer = world.customer()
        wrong = SubscriptionOrder(f"sub_{world.key()}", customer.id, (ItemOrder("price_of_nothing"),), "usd")
        with pytest.raises(Refused):
            world.provider.create_subscription(wrong, world.key())

    def test_wrong_credentials_and_nobody_there_are_away(self, world: ProviderWorld) -> None:
        with pytest.raises(Away) as refused:
            world.with_wrong_credentials().account()
        assert refused.value.code == "credentials"
        with pytest.raises(Away):
            world.with_nobody_there().create_customer(CustomerOrder("tnt_x", "x"), world.key())

    def test_a_subscription_starts_active_with_its_period_and_is_found_by_its_reference(self, world: ProviderWorld) -> None:
        customer = world.customer()
        order = world.order(customer)
        made = world.provider.create_subscription(order, world.key())
        assert (made.status, made.currency, made.interval, made.interval_count) == ("active", "usd", "month", 1)
        assert made.customer_id == customer.id
        assert made.reference == order.reference
        assert [item.price_id for item in made.items] == [world.price(MONTHLY)]
        assert made.period_start <= NOW + timedelta(minutes=1) < made.period_end
        assert not made.cancel_at_period_end
        assert made.ended_at is None
        assert world.provider.subscription(made.id) == made
        assert world.provider.find_subscription(customer.id, order.reference) == made

    def test_periods_start_at_midnight_of_the_anchor_day_and_a_short_month_has_its_last(self, world: ProviderWorld) -> None:
        if not world.has("anchor"):
            order = world.order(world.customer())
            refused_as_unsupported(lambda: world.provider.create_subscription(replace(order, anchor_day=1), world.key()))
            return
        order = world.order(world.customer())
        for day, ends in ((1, datetime(2026, 12, 1, tzinfo=UTC)), (31, datetime(2026, 11, 30, tzinfo=UTC))):
            wanted = replace(order, reference=f"{order.reference}{day}", anchor_day=day)
            made = world.provider.create_subscription(wanted, world.key())
            assert (made.anchor_day, made.anchor.time().isoformat()) == (day, "00:00:00")
            assert made.period_end == ends

    def test_a_trial_ends_when_it_was_said_and_costs_nothing_until_then(self, world: ProviderWorld) -> None:
        order = world.order(world.customer())
        end = NOW + timedelta(days=10)
        if not world.has("trials"):
            refused_as_unsupported(lambda: world.provider.create_subscription(replace(order, trial_end=end), world.key()))
            return
        made = world.provider.create_subscription(replace(order, trial_end=end), world.key())
        assert made.status == "trialing"
        assert made.trial_end == end

    def test_cancelled_at_the_periods_end_it_goes_on_and_may_be_reactivated(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        key = world.key()
        ending = provider.cancel_at_period_end(made.id, key)
        assert (ending.status, ending.cancel_at_period_end) == ("active", True)
        assert provider.cancel_at_period_end(made.id, key).cancel_at_period_end
        again = provider.reactivate(made.id, world.key())
        assert (again.status, again.cancel_at_period_end, again.cancel_at) == ("active", False, None)

    def test_cancelled_at_once_it_is_over_and_stays_so(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        over = provider.cancel_now(made.id, world.key())
        assert over.status == "canceled"
        assert over.ended_at is not None
        assert provider.subscription(made.id).status == "canceled"
        assert [one.status for one in provider.subscriptions(made.customer_id).items] == ["canceled"]
        with pytest.raises((NotFound, Refused)):
            provider.cancel_now(made.id, world.key())
        with pytest.raises((NotFound, Refused)):
            provider.reactivate(made.id, world.key())

    def test_another_price_takes_the_place_of_the_first(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        change = SubscriptionChange(items=(ItemChange(id=made.items[0].id, price_id=world.price(OTHER)),), proration="none")
        changed = provider.update_subscription(made.id, change, world.key())
        assert changed.id == made.id
        assert [item.price_id for item in changed.items] == [world.price(OTHER)]

    def test_items_are_counted_added_and_taken_away(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        more = SubscriptionChange(
            items=(
                ItemChange(id=made.items[0].id, quantity=5),
                ItemChange(price_id=world.price(OTHER), quantity=2) if world.has("items") else ItemChange(price_id="x"),
            )
        )
        if not world.has("items"):
            refused_as_unsupported(lambda: provider.update_subscription(made.id, more, world.key()))
            return
        changed = provider.update_subscription(made.id, more, world.key())
        assert {item.price_id: item.quantity for item in changed.items} == {world.price(MONTHLY): 5, world.price(OTHER): 2}
        second = next(item for item in changed.items if item.price_id == world.price(OTHER))
        fewer = SubscriptionChange(items=(ItemChange(id=second.id, deleted=True),))
        assert len(provider.update_subscription(made.id, fewer, world.key()).items) == 1

    def test_a_preview_says_what_a_change_costs_and_changes_nothing(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        change = SubscriptionChange(items=(ItemChange(id=made.items[0].id, price_id=world.price(OTHER)),))
        if not world.has("preview"):
            refused_as_unsupported(lambda: provider.preview_update(made.id, change))
            return
        world.advance(10 * DAY_S)
        preview = provider.preview_update(made.id, change)
        prorations = [line.amount for line in preview.lines if line.proration]
        assert len(prorations) == 2
        assert prorations[0] < 0 < prorations[1]
        assert provider.subscription(made.id).items == made.items
        assert provider.upcoming_invoice(made.id).total == 4900

    def test_collection_is_paused_and_resumed(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        if not world.has("pause"):
            refused_as_unsupported(lambda: provider.pause(made.id, "void", None, world.key()))
            return
        until = NOW + timedelta(days=20)
        paused = provider.pause(made.id, "void", until, world.key())
        assert paused.pause is not None
        assert (paused.pause.behavior, paused.pause.resumes_at) == ("void", until)
        assert provider.resume(made.id, world.key()).pause is None

    def test_a_payment_method_is_attached_made_default_and_taken_away(self, world: ProviderWorld) -> None:
        provider, customer = world.provider, world.customer(pays=False)
        if not world.has("payment_methods"):
            refused_as_unsupported(lambda: provider.attach_payment_method(customer.id, world.token(), world.key()))
            return
        key = world.key()
        token = world.token()
        method = provider.attach_payment_method(customer.id, token, key)
        assert provider.attach_payment_method(customer.id, token, key).id == method.id
        assert (method.customer_id, method.kind, method.last4) == (customer.id, "card", "4242")
        chosen = provider.set_default_payment_method(customer.id, method.id, world.key())
        assert chosen.default_payment_method_id == method.id
        assert [one.id for one in provider.payment_methods(customer.id).items] == [method.id]
        assert provider.detach_payment_method(method.id, world.key()).customer_id is None
        assert provider.payment_methods(customer.id).items == ()
        assert provider.customer(customer.id).default_payment_method_id is None

    def test_a_card_that_is_declined_leaves_the_subscription_incomplete(self, world: ProviderWorld) -> None:
        provider, customer = world.provider, world.customer(pays=False)
        if not world.has("payment_methods"):
            return
        method = provider.attach_payment_method(customer.id, world.token(works=False), world.key())
        provider.set_default_payment_method(customer.id, method.id, world.key())
        assert provider.create_subscription(world.order(customer), world.key()).status == "incomplete"

    def test_invoices_are_listed_and_shown_with_their_lines(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        (invoice,) = provider.invoices(made.customer_id).items
        assert invoice.total == 4900
        assert (invoice.currency, invoice.customer_id, invoice.subscription_id) == ("usd", made.customer_id, made.id)
        assert provider.invoice(invoice.id) == invoice
        assert sum(line.amount for line in invoice.lines) == invoice.subtotal
        assert provider.invoices(made.customer_id, status=invoice.status).items == (invoice,)
        assert provider.invoices(made.customer_id, subscription_id=made.id).items == (invoice,)

    def test_an_invoice_of_what_is_pending_is_made_once_and_nothing_pending_is_refused(self, world: ProviderWorld) -> None:
        provider, made = world.provider, world.subscription()
        if not world.has("generate_invoice"):
            refused_as_unsupported(lambda: provider.generate_invoice(made.customer_id, "usd", "Now", world.key()))
            return
        with pytest.raises(Refused) as refused:
            provider.generate_invoice(made.customer_id, "usd", "Now", world.key())
        assert refused.value.code == "nothing_to_invoice"

    def test_usage_is_told_once_by_its_identifier(self, world: ProviderWorld) -> None:
        provider, customer = world.provider, world.customer()
        order = world.order(customer, METERED)
        provider.create_subscription(order, world.key())
        event = UsageEvent(world.meter(), customer.id, f"id-{world.key()}", 7, NOW, order.reference)
        provider.record_usage(event)
        provider.record_usage(event)

    def test_a_promotion_code_is_made_found_and_switched_off(self, world: ProviderWorld) -> None:
        provider = world.provider
        text = f"CODE{world.key()[:10].upper()}"
        order = PromotionCodeOrder(
            f"promo_{world.key()}", text, percent_off=Decimal("12.5"), duration="repeating", duration_months=3
        )
        if not world.has("promotion_codes"):
            refused_as_unsupported(lambda: provider.create_promotion_code(order, world.key()))
            return
        key = world.key()
        made = provider.create_promotion_code(order, key)
        assert provider.create_promotion_code(order, key).id == made.id
        assert (made.code, made.percent_off, made.amount_off, made.active) == (text, Decimal("12.5"), None, True)
        assert (made.duration, made.duration_months) == ("repeating", 3)
        assert provider.find_promotion_code(text) == made
        assert not provider.deactivate_promotion_code(made.id, world.key()).active
        assert provider.find_promotion_code(f"{text}X") is None
