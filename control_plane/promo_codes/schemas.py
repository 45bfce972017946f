"""What promo codes look like over HTTP. Money is in minor units, a percentage an exact number."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Row

from metering.promotions import Reason

Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{3,64}$", description="What customers type; capitals make no difference.")]
Currency = Annotated[str, Field(pattern=r"^[a-z]{3}$", description="Three small letters, as usd.")]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Asking(BaseModel):
    """A body; an unknown field is an error, for it would be a wish that nobody fulfils."""

    model_config = ConfigDict(extra="forbid")


class PromoCodeOrder(Asking):
    """A code to be made."""

    code: Code
    name: Annotated[str, Field(max_length=40)] = ""
    percent_off: Annotated[Decimal, Field(gt=0, le=100, max_digits=5, decimal_places=2)] | None = None
    amount_off: Annotated[int, Field(gt=0, lt=1 << 53, description="Minor units.")] | None = None
    currency: Currency | None = None
    duration: Literal["once", "repeating", "forever"] = "once"
    duration_months: Annotated[int, Field(ge=1, le=120)] | None = None
    max_redemptions: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    max_per_organization: Annotated[int, Field(ge=1, le=1_000)] = 1
    plan_ids: Annotated[list[Name], Field(max_length=100)] = []
    starts_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _hangs_together(self) -> PromoCodeOrder:
        if (self.percent_off is None) == (self.amount_off is None):
            raise ValueError("give percent_off or amount_off, one of the two")
        if self.amount_off is not None and self.currency is None:
            raise ValueError("amount_off needs its currency")
        if (self.duration == "repeating") != (self.duration_months is not None):
            raise ValueError("duration_months belongs to the duration repeating, and to no other")
        if self.starts_at is not None and self.expires_at is not None and self.expires_at <= self.starts_at:
            raise ValueError("expires_at lies after starts_at")
        return self


class PromoCode(BaseModel):
    """A code. `redeemed` counts our redemptions; `provider_redeemed` is the provider's own count."""

    id: UUID
    code: str
    name: str
    percent_off: Decimal | None
    amount_off: int | None
    currency: str | None
    duration: str
    duration_months: int | None
    max_redemptions: int | None
    max_per_organization: int
    redeemed: int
    plan_ids: list[str]
    starts_at: datetime | None
    expires_at: datetime | None
    active: bool
    ready: bool
    provider_code_id: str | None
    provider_redeemed: int
    created_at: datetime

    @classmethod
    def of(cls, row: Row[Any]) -> PromoCode:
        shown = {name: getattr(row, name) for name in cls.model_fields if name in row._fields}
        shown["active"] = row.active and row.provider_active
        return cls(id=row.promo_code_id, ready=row.provider_code_id is not None, **shown)


class ValidateCode(Asking):
    """May this code be redeemed? A plan and a currency that are not named are not looked at."""

    code: Code
    organization_id: Name
    plan_id: Name | None = None
    currency: Currency | None = None


class Validity(BaseModel):
    """Whether it may be redeemed now, why not, and what it gives."""

    valid: bool
    reason: Reason | Literal["unknown_code"] | None
    message: str | None
    code: str
    percent_off: Decimal | None = None
    amount_off: int | None = None
    currency: str | None = None
    duration: str | None = None
    duration_months: int | None = None


class RedeemCode(Asking):
    """Redeems a code for a subscription that there is. With a new subscription it is `promo_code` of that."""

    code: Code
    organization_id: Name
    subscription_id: Name


class Redemption(BaseModel):
    """A use of a code, taken."""

    id: UUID
    code: str
    organization_id: str
    subscription_id: str
    redeemed_at: datetime
