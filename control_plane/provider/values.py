"""The words in which a provider is spoken to. Amounts are whole minor units of their currency (cents, yen, fils); instants
are aware; ids are the provider's own, `reference` is ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

SubscriptionStatus = Literal["incomplete", "incomplete_expired", "trialing", "active", "past_due", "canceled", "unpaid", "paused"]
OVER: frozenset[SubscriptionStatus] = frozenset({"canceled", "incomplete_expired"})
"""Nothing follows on these."""

InvoiceStatus = Literal["draft", "open", "paid", "uncollectible", "void"]
Interval = Literal["day", "week", "month", "year"]
Proration = Literal["create_prorations", "always_invoice", "none"]
"""A change within a period: billed with the next invoice, at once, or not at all."""
PauseBehavior = Literal["keep_as_draft", "mark_uncollectible", "void"]
"""What becomes of invoices while collection is paused."""
Duration = Literal["once", "repeating", "forever"]

ITEMS_MAX = 20
PAGE_MAX = 100


@dataclass(frozen=True)
class Page(Generic[T]):
    """Newest first. `next` is the cursor that the following call takes; None at the end."""

    items: tuple[T, ...]
    next: str | None


@dataclass(frozen=True)
class CustomerOrder:
    """A customer to be made. `reference` is the tenant."""

    reference: str
    name: str
    email: str | None = None
    currency: str | None = None
    """Lower case; for providers that fix it with the customer."""


@dataclass(frozen=True)
class CustomerChange:
    """None leaves as it is; an empty text takes away."""

    name: str | None = None
    email: str | None = None


@dataclass(frozen=True)
class Customer:
    """A customer as the provider holds it."""

    id: str
    reference: str | None
    name: str
    email: str | None
    currency: str | None
    default_payment_method_id: str | None
    created: datetime


@dataclass(frozen=True)
class ItemOrder:
    """`price_id`: the provider's id of a price (Stripe) or its code of a plan (Lago). `quantity` None: metered, or one."""

    price_id: str
    quantity: int | None = None


@dataclass(frozen=True)
class SubscriptionOrder:
    """A subscription to be made. `reference` is our id of it, by which it is found again after a crash."""

    reference: str
    customer_id: str
    items: tuple[ItemOrder, ...]
    currency: str
    anchor_day: int | None = None
    """Whole periods start at 00:00 UTC of this day of a month, the first after now or the trial; a month that lacks it has its
    last day instead. What lies before is billed in proportion. None: they start with the moment of the call."""
    trial_end: datetime | None = None
    payment_method_id: str | None = None
    promotion_code_id: str | None = None


@dataclass(frozen=True)
class ItemChange:
    """`id` None adds; with an id changes that item, or takes it away with `deleted`."""

    id: str | None = None
    price_id: str | None = None
    quantity: int | None = None
    deleted: bool = False


@dataclass(frozen=True)
class SubscriptionChange:
    """What is to be otherwise; None (and no items) leaves as it is."""

    items: tuple[ItemChange, ...] = ()
    proration: Proration = "create_prorations"
    payment_method_id: str | None = None
    promotion_code_id: str | None = None
    trial_end: datetime | Literal["now"] | None = None


@dataclass(frozen=True)
class SubscriptionItem:
    """An item of a subscription. `quantity` None: metered."""

    id: str
    price_id: str
    quantity: int | None
    unit_amount: Decimal | None
    """In minor units, exact; None where the price has tiers or the provider does not say."""


@dataclass(frozen=True)
class Pause:
    """Collection is paused until somebody, or `resumes_at`, ends it."""

    behavior: PauseBehavior
    resumes_at: datetime | None


@dataclass(frozen=True)
class Subscription:
    """A subscription as the provider holds it."""

    id: str
    reference: str | None
    customer_id: str
    status: SubscriptionStatus
    currency: str
    interval: Interval
    interval_count: int
    items: tuple[SubscriptionItem, ...]
    anchor: datetime
    """From which the periods are counted."""
    anchor_day: int
    """The day of the month on which they start, 1 to 31."""
    period_start: datetime
    period_end: datetime
    cancel_at_period_end: bool
    cancel_at: datetime | None
    canceled_at: datetime | None
    ended_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    pause: Pause | None
    payment_method_id: str | None
    latest_invoice_id: str | None
    created: datetime


@dataclass(frozen=True)
class PaymentMethod:
    """What a customer pays with. Nothing else of a card is ever read: no number, no fingerprint, no holder."""

    id: str
    customer_id: str | None
    kind: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    created: datetime


@dataclass(frozen=True)
class InvoiceLine:
    """A line. `amount` may be negative: what comes back."""

    description: str
    amount: int
    quantity: Decimal | None
    price_id: str | None
    proration: bool
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True)
class Invoice:
    """An invoice as the provider holds it, or, in a preview, would: then it has no number and an id that leads nowhere."""

    id: str
    customer_id: str
    subscription_id: str | None
    status: InvoiceStatus
    number: str | None
    currency: str
    subtotal: int
    discount: int
    tax: int
    total: int
    amount_due: int
    amount_paid: int
    amount_remaining: int
    lines: tuple[InvoiceLine, ...]
    period_start: datetime
    period_end: datetime
    created: datetime
    due_at: datetime | None
    finalized_at: datetime | None
    paid_at: datetime | None
    hosted_url: str | None
    pdf_url: str | None


@dataclass(frozen=True)
class UsageEvent:
    """Usage told to the provider by itself, beside what the exporter sends. `identifier` makes a repeat harmless."""

    meter: str
    customer_id: str
    identifier: str
    value: int
    at: datetime
    subscription_reference: str | None = None
    """Ours; for providers that count by subscription."""


@dataclass(frozen=True)
class PromotionCodeOrder:
    """A code and what it takes off: `percent_off` or `amount_off` with its `currency`, one of the two."""

    reference: str
    code: str
    percent_off: Decimal | None = None
    amount_off: int | None = None
    currency: str | None = None
    duration: Duration = "once"
    duration_months: int | None = None
    max_redemptions: int | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class PromotionCode:
    """A code as the provider holds it."""

    id: str
    reference: str | None
    code: str
    active: bool
    percent_off: Decimal | None
    amount_off: int | None
    currency: str | None
    duration: Duration
    duration_months: int | None
    max_redemptions: int | None
    redeemed: int
    expires_at: datetime | None
    coupon_id: str | None = None
    """What the code gives, where the provider holds that apart."""
    metadata: dict[str, str] = field(default_factory=dict)
