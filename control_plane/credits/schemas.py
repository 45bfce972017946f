"""Credits over HTTP: what is sent and what is answered."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, WithJsonSchema, model_validator

from control_plane.credits.amounts import CreditsGiven
from control_plane.credits.tokens import Count, TokensGiven
from meterline_schemas.quantity import QUANTITY_PATTERN, parse_quantity
from meterline_schemas.types import Micros
from store.credits import Balance, Done
from store.holds import decimal_of

EXPIRY_DAYS_MAX: Final = 3_650
NOTES_CHARACTERS_MAX: Final = 1_000


def _not_nothing(value: Micros) -> Micros:
    if value == 0:
        raise ValueError("want more than nothing")
    return value


def _change(value: Any) -> Micros:
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError("want a number of credits, or its digits in quotes")
    return parse_quantity(value if isinstance(value, str) else f"{value:f}" if isinstance(value, Decimal) else str(value))


Credits = Annotated[CreditsGiven, AfterValidator(_not_nothing)]
Change = Annotated[
    Micros,
    BeforeValidator(_change),
    AfterValidator(_not_nothing),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": QUANTITY_PATTERN}]}),
]
UserId = Annotated[str, Field(min_length=1, max_length=512, description="The user's id or e-mail address.")]
ExpiryDays = Annotated[StrictInt, Field(ge=1, le=EXPIRY_DAYS_MAX)]
Notes = Annotated[str, Field(max_length=NOTES_CHARACTERS_MAX)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CheckBody(_Sent):
    """Would the caller's credits pay for so much?"""

    requiredCredits: CreditsGiven


class CalculateBody(_Sent):
    """A model and its tokens, or an operation and how often. A plain number of tokens is of output."""

    modelId: Name | None = None
    tokens: TokensGiven | None = None
    operation: Name | None = None
    times: Count = 1

    @model_validator(mode="after")
    def _one_of_the_two(self) -> CalculateBody:
        if (self.modelId is None) == (self.operation is None) or (self.modelId is None) != (self.tokens is None):
            raise ValueError("want modelId and tokens, or operation")
        return self


class _Given(_Sent):
    userId: UserId
    expiryDays: ExpiryDays | None = None
    notes: Notes = ""

    def lives_for(self) -> timedelta | None:
        return None if self.expiryDays is None else timedelta(days=self.expiryDays)


class AllocateBody(_Given):
    """Credits for a user, as a lot of their own."""

    credits: Credits


class SetBody(_Given):
    """What the user's balance is to be, whatever it was."""

    credits: CreditsGiven


class RemoveBody(_Sent):
    """Credits to be taken away."""

    userId: UserId
    credits: Credits
    notes: Notes = ""


class AdjustBody(_Given):
    """A change of the balance, either way."""

    adjustment: Change

    @model_validator(mode="after")
    def _only_what_comes_expires(self) -> AdjustBody:
        if self.adjustment < 0 and self.expiryDays is not None:
            raise ValueError("expiryDays is for positive adjustments")
        return self


class LotShown(BaseModel):
    """Credits that came together."""

    credits: Decimal
    expiresAt: datetime | None
    createdAt: datetime
    notes: str


class BalanceShown(BaseModel):
    """What a user has. Lots stand in the order in which they pay; what has expired is in none of it."""

    userId: str
    balance: Decimal
    held: Decimal
    overdraft: Decimal
    lots: list[LotShown]

    @classmethod
    def of(cls, user_id: str, shown: Balance) -> BalanceShown:
        lots = [
            LotShown(credits=decimal_of(lot.available), expiresAt=lot.expires_at, createdAt=lot.created_at, notes=lot.note)
            for lot in shown.lots
        ]
        return cls(
            userId=user_id,
            balance=decimal_of(shown.balance),
            held=decimal_of(shown.held),
            overdraft=decimal_of(shown.overdraft),
            lots=lots,
        )


class CheckShown(BaseModel):
    """Whether the credits suffice; nothing is held by it."""

    sufficient: bool
    requiredCredits: Decimal
    balance: Decimal


class CostShown(BaseModel):
    """What it costs today, and the price that it was worked out with."""

    credits: Decimal
    price: dict[str, Any]


class ChangedShown(BaseModel):
    """What was done to a user's credits, and the balance after it."""

    userId: str
    operationId: int
    credits: Decimal
    balance: Decimal
    at: datetime

    @classmethod
    def of(cls, user_id: str, done: Done) -> ChangedShown:
        return cls(
            userId=user_id,
            operationId=done.operation_id,
            credits=decimal_of(done.amount),
            balance=decimal_of(done.balance),
            at=done.at,
        )
