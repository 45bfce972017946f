"""Invoices over HTTP."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class LineShown(BaseModel):
    """A line. `amount` in minor units; below zero is what comes back."""

    description: str
    amount: int
    quantity: Decimal | None
    price_id: str | None
    proration: bool
    period_start: datetime
    period_end: datetime


class InvoiceShown(BaseModel):
    """An invoice as it is answered. Amounts are whole minor units of the currency."""

    id: str
    organization_id: str
    status: str
    number: str | None
    currency: str
    subtotal: int
    discount: int
    tax: int
    total: int
    amount_due: int
    amount_paid: int
    amount_remaining: int
    lines: list[LineShown]
    period_start: datetime
    period_end: datetime
    due_at: datetime | None
    finalized_at: datetime | None
    paid_at: datetime | None
    hosted_url: str | None
    pdf_url: str | None
    created_at: datetime


class BaseLineShown(BaseModel):
    """What is paid in advance."""

    price_id: str | None
    quantity: int
    unit_amount: Decimal
    amount: int


class UsageLineShown(BaseModel):
    """What was used, and what of it is paid for. `unit_price` in the currency's major unit, the amounts in its smallest."""

    usage_type: str
    used: Decimal
    included: Decimal
    overage: Decimal
    unit_price: Decimal
    exact_amount: Decimal
    amount: int


class InvoicePreviewShown(BaseModel):
    """The invoice of the running period by the usage so far."""

    organization_id: str
    plan_id: str
    currency: str
    period_start: date
    period_end: date
    base: list[BaseLineShown]
    usage: list[UsageLineShown]
    base_total: int
    usage_total: int
    total: int


class InvoiceGenerate(BaseModel):
    """An invoice of what is pending, now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    organization_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    description: Annotated[str, Field(max_length=500)] = "Pending items"
