"""Payment methods over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class PaymentMethodAdd(BaseModel):
    """A method that a client made with the provider, named by the provider's id. Card data is never sent here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    organization_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    payment_method_id: Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,255}$")]
    set_default: bool = True


class PaymentMethodShown(BaseModel):
    """A payment method as it is answered."""

    id: str
    organization_id: str
    type: str
    last4: str | None
    is_default: bool
    created_at: datetime
