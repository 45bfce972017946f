"""What usage records look like. Quantities are exact: numbers in answers, numbers or texts in requests."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=256)]


class UsageOrder(BaseModel):
    """Something that was used. (source_service, source_entity_id, usage_type) names it for ever: a repeat is counted once."""

    model_config = ConfigDict(extra="forbid")

    organization_id: Name
    usage_type: Name
    quantity: Annotated[Decimal, Field(ge=0, lt=10**12, decimal_places=6)]
    source_service: Name
    source_entity_id: Name
    occurred_at: AwareDatetime | None = None
    metadata: dict[str, Any] | None = None


class Recorded(BaseModel):
    """It is kept and will be published; `state` queued says that it is not counted yet."""

    state: str
    organization_id: str
    usage_type: str
    quantity: Decimal
    source_service: str
    source_entity_id: str


class UsageLine(BaseModel):
    """What was counted of one usage type on one day (UTC)."""

    usage_type: str
    day: date
    quantity: Decimal
    events: int


class UsageRecord(BaseModel):
    """One admitted event."""

    usage_type: str
    quantity: Decimal
    occurred_at: datetime
    source_service: str
    source_entity_id: str
