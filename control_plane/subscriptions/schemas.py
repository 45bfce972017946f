"""Subscriptions over HTTP: what is sent and what is answered."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from control_plane.provider.values import ITEMS_MAX, Invoice, ItemOrder
from control_plane.subscriptions.views import CreateOrder, PauseOrder, Preview, SubscriptionView, UpdateOrder

Id = Annotated[str, Field(min_length=1, max_length=256)]
Quantity = Annotated[int, Field(strict=True, ge=0, le=999_999)]
Currency = Annotated[str, Field(pattern="^[a-z]{3}$")]
Cycle = Literal["monthly", "yearly"]
Proration = Literal["create_prorations", "always_invoice", "none"]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(_Sent):
    """Something that is paid for beside the plan, by the provider's id of its price."""

    price_id: Id
    quantity: Annotated[int, Field(strict=True, ge=1, le=999_999)] = 1

    def order(self) -> ItemOrder:
        return ItemOrder(self.price_id, self.quantity)


Items = Annotated[list[Item], Field(max_length=ITEMS_MAX)]


class SubscriptionCreate(_Sent):
    """A subscription to be made."""

    organization_id: Id
    plan_id: Id
    billing_cycle: Cycle = "monthly"
    payment_method_id: Id | None = None
    currency: Currency | None = None
    quantity: Quantity = 1
    items: Items = []
    trial_days: Annotated[int, Field(strict=True, ge=1, le=730)] | None = None
    promo_code: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    def order(self) -> CreateOrder:
        return CreateOrder(
            plan_id=self.plan_id,
            billing_cycle=self.billing_cycle,
            currency=self.currency,
            quantity=self.quantity,
            items=tuple(item.order() for item in self.items),
            payment_method_id=self.payment_method_id,
            trial_days=self.trial_days,
            promo_code=self.promo_code,
        )


class SubscriptionUpdate(_Sent):
    """What is to be otherwise; what is left out stays. `items` replaces all of them."""

    plan_id: Id | None = None
    billing_cycle: Cycle | None = None
    quantity: Quantity | None = None
    items: Items | None = None
    proration_behavior: Proration = "create_prorations"
    payment_method_id: Id | None = None
    trial_end: AwareDatetime | None = None
    end_trial: bool = False
    promo_code: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    def order(self) -> UpdateOrder:
        return UpdateOrder(
            plan_id=self.plan_id,
            billing_cycle=self.billing_cycle,
            quantity=self.quantity,
            items=None if self.items is None else tuple(item.order() for item in self.items),
            proration=self.proration_behavior,
            payment_method_id=self.payment_method_id,
            trial_end=self.trial_end,
            end_trial=self.end_trial,
            promo_code=self.promo_code,
        )


class SubscriptionPause(_Sent):
    """What becomes of invoices meanwhile, and when the pause ends by itself."""

    behavior: Literal["keep_as_draft", "mark_uncollectible", "void"] = "void"
    resumes_at: AwareDatetime | None = None

    def order(self) -> PauseOrder:
        return PauseOrder(self.behavior, self.resumes_at)


class ItemShown(BaseModel):
    """An item."""

    price_id: str
    quantity: int | None


class PauseShown(BaseModel):
    """A pause of collection."""

    behavior: str
    resumes_at: datetime | None


class SubscriptionShown(BaseModel):
    """A subscription as it is answered."""

    id: str
    organization_id: str
    plan_id: str | None
    billing_cycle: str | None
    quantity: int
    items: list[ItemShown]
    currency: str
    status: str
    current_period_start: datetime
    current_period_end: datetime
    cancel_at_period_end: bool
    cancel_at: datetime | None
    canceled_at: datetime | None
    ended_at: datetime | None
    trial_start: datetime | None
    trial_end: datetime | None
    pause: PauseShown | None
    payment_method_id: str | None
    latest_invoice_id: str | None
    provider: str
    imported: bool
    misaligned: bool
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, view: SubscriptionView) -> SubscriptionShown:
        pause = None
        if view.pause_behavior is not None:
            pause = PauseShown(behavior=view.pause_behavior, resumes_at=view.pause_resumes_at)
        shown = {name: getattr(view, name) for name in cls.model_fields if name not in ("items", "pause")}
        items = [ItemShown(price_id=item.price_id, quantity=item.quantity) for item in view.items]
        return cls(**shown, items=items, pause=pause)


class LineShown(BaseModel):
    """A line of an invoice. `amount` in minor units; below zero is what comes back."""

    description: str
    amount: int
    quantity: Decimal | None
    price_id: str | None
    proration: bool
    period_start: datetime
    period_end: datetime


class InvoiceAhead(BaseModel):
    """An invoice that would be."""

    total: int
    currency: str
    period_start: datetime
    period_end: datetime
    lines: list[LineShown]

    @classmethod
    def of(cls, invoice: Invoice) -> InvoiceAhead:
        lines = [LineShown.model_validate(line, from_attributes=True) for line in invoice.lines]
        return cls(
            total=invoice.total,
            currency=invoice.currency,
            period_start=invoice.period_start,
            period_end=invoice.period_end,
            lines=lines,
        )


class PreviewShown(BaseModel):
    """What a change would cost, in minor units. `proration`: the part of it that is for the rest of the running period."""

    currency: str
    total: int
    proration: int
    invoices: list[InvoiceAhead]

    @classmethod
    def of(cls, preview: Preview) -> PreviewShown:
        return cls(
            currency=preview.currency,
            total=preview.total,
            proration=preview.proration,
            invoices=[InvoiceAhead.of(invoice) for invoice in preview.invoices],
        )
