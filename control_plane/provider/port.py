"""What is asked of a payment provider, and nothing more.

Every call has a time limit, blocks, may be made from any thread, and raises a kind of ProviderError (`errors.py`) and nothing
else. A call that writes takes a `key`: the same key with the same arguments does the work once, however often it is
made, for a day at least. Callers store the key before the call, so that a crash repeats the same one; what is older than a
day is found by its reference first.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol

from control_plane.provider.values import (
    Customer,
    CustomerChange,
    CustomerOrder,
    Invoice,
    InvoiceStatus,
    Page,
    PauseBehavior,
    PaymentMethod,
    PromotionCode,
    PromotionCodeOrder,
    Subscription,
    SubscriptionChange,
    SubscriptionOrder,
    UsageEvent,
)

Capability = Literal[
    "payment_methods",  # attach, detach, set default, list
    "items",            # several items a subscription, and quantities
    "anchor",           # a first period that starts at an instant of ours
    "trials",           # a subscription that costs nothing until an instant of ours
    "pause",            # pause and resume collection
    "preview",          # what a change or the next period would cost
    "generate_invoice", # an invoice of what is pending, now
    "promotion_codes",
]  # fmt: skip
"""What some provider lacks. A call for what is lacking raises Refused with the code unsupported_by_provider."""


class Provider(Protocol):
    """Safe to share between threads."""

    @property
    def name(self) -> str:
        """stripe, lago: as it stands in rows and messages."""

    @property
    def livemode(self) -> bool:
        """Whether money moves."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it has of that which not every one has."""

    def account(self) -> str:
        """The id of the account that the credentials belong to."""

    # --- customers

    def create_customer(self, order: CustomerOrder, key: str) -> Customer:
        """Makes a customer."""

    def update_customer(self, customer_id: str, change: CustomerChange, key: str) -> Customer:
        """Changes what `change` names."""

    def customer(self, customer_id: str) -> Customer:
        """The customer. Raises NotFound, for a deleted one too."""

    def find_customer(self, reference: str) -> Customer | None:
        """The oldest customer made with this reference, None where there is none. May walk over all of them."""

    def customers(self, after: str | None = None, limit: int = 100) -> Page[Customer]:
        """A page of them."""

    # --- subscriptions

    def create_subscription(self, order: SubscriptionOrder, key: str) -> Subscription:
        """Makes a subscription and charges its first invoice; one that cannot be charged is `incomplete`, or Refused."""

    def update_subscription(self, subscription_id: str, change: SubscriptionChange, key: str) -> Subscription:
        """Changes items, trial, payment method, promotion."""

    def preview_update(self, subscription_id: str, change: SubscriptionChange) -> Invoice:
        """The invoice that would follow on the change. Nothing is written. Capability preview."""

    def cancel_at_period_end(self, subscription_id: str, key: str) -> Subscription:
        """It ends with the running period; until then it stays as it is."""

    def cancel_now(self, subscription_id: str, key: str, *, prorate: bool = False) -> Subscription:
        """It ends; what was used is billed. `prorate`: unused time comes back. One that is over already: NotFound."""

    def reactivate(self, subscription_id: str, key: str) -> Subscription:
        """A cancellation at the period's end is taken back. One that is over: Refused or NotFound."""

    def pause(self, subscription_id: str, behavior: PauseBehavior, resumes_at: datetime | None, key: str) -> Subscription:
        """Pauses collection. Capability pause."""

    def resume(self, subscription_id: str, key: str) -> Subscription:
        """Ends a pause of collection; of one that is `paused` since its trial, begins a period. Capability pause."""

    def subscription(self, subscription_id: str) -> Subscription:
        """The subscription; one that is over too. Raises NotFound."""

    def find_subscription(self, customer_id: str, reference: str) -> Subscription | None:
        """The customer's subscription with this reference, over or not; None where there is none. Sees every finished call."""

    def subscriptions(self, customer_id: str | None = None, after: str | None = None, limit: int = 100) -> Page[Subscription]:
        """A page of them, those that are over too."""

    # --- payment methods (capability payment_methods)

    def attach_payment_method(self, customer_id: str, token: str, key: str) -> PaymentMethod:
        """Gives a method, that a client made with the provider and named by `token`, to the customer."""

    def detach_payment_method(self, method_id: str, key: str) -> PaymentMethod:
        """Takes it away for good."""

    def set_default_payment_method(self, customer_id: str, method_id: str, key: str) -> Customer:
        """What invoices are charged to from now on."""

    def payment_method(self, method_id: str) -> PaymentMethod:
        """The method. Raises NotFound."""

    def payment_methods(self, customer_id: str, after: str | None = None, limit: int = 100) -> Page[PaymentMethod]:
        """A page of the customer's."""

    # --- invoices

    def invoice(self, invoice_id: str) -> Invoice:
        """The invoice with all its lines. Raises NotFound."""

    def invoices(
        self,
        customer_id: str | None = None,
        *,
        subscription_id: str | None = None,
        status: InvoiceStatus | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[Invoice]:
        """A page of them."""

    def upcoming_invoice(self, subscription_id: str) -> Invoice:
        """What the next invoice would be as things stand. Nothing is written. Capability preview."""

    def generate_invoice(self, customer_id: str, currency: str, description: str, key: str) -> Invoice:
        """An invoice of what is pending for the customer, final. Nothing pending: Refused. Capability generate_invoice."""

    # --- usage

    def record_usage(self, event: UsageEvent) -> None:
        """Tells one event; a repeat of its identifier is a success."""

    # --- promotion codes (capability promotion_codes)

    def create_promotion_code(self, order: PromotionCodeOrder, key: str) -> PromotionCode:
        """Makes the code and what it gives."""

    def deactivate_promotion_code(self, code_id: str, key: str) -> PromotionCode:
        """Nobody gets it any more; who has it keeps it."""

    def promotion_code(self, code_id: str) -> PromotionCode:
        """The code. Raises NotFound."""

    def find_promotion_code(self, code: str) -> PromotionCode | None:
        """The newest active one with this text, else the newest; None where there is none."""
