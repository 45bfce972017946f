"""The catalog: features, meters, usage types, plans with their limits, and tenants on plans. As one strict value.

`store.catalog_file` reads it from YAML, `store.catalog` from and into Postgres. Quantities and prices are Decimal
made from text; a float cannot get in.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

Period = Literal["day", "month", "billing_period", "lifetime"]

UNLIMITED = "unlimited"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _identifier(value: object) -> object:
    """The rule of ids in events: 1-256 bytes of UTF-8 without control characters."""
    if isinstance(value, str):
        if not 1 <= len(value.encode("utf-8", "surrogatepass")) <= 256:
            raise ValueError("want 1 to 256 bytes")
        if _CONTROL.search(value):
            raise ValueError("want no control characters")
    return value


def _exact(pattern: str, wanted: str) -> BeforeValidator:
    grammar = re.compile(pattern)

    def parse(value: object) -> Decimal | None:
        if value is None or isinstance(value, Decimal):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not grammar.fullmatch(value):
            raise ValueError(f"want {wanted}, as digits or in quotes; found {value!r}")
        return Decimal(value)

    return BeforeValidator(parse)


def _whole(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError(f"want a whole number; found {value!r}")
    return value


def format_exact(value: Decimal) -> str:
    """The shortest text that is exactly this value: 15, 7.5, 0.04."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _unlimited(value: object) -> object:
    return None if value == UNLIMITED else value


Identifier = Annotated[str, BeforeValidator(_identifier)]
_Text = Annotated[str, Field(max_length=1_000)]
_As_text = PlainSerializer(format_exact, return_type=str, when_used="unless-none")
Quantity = Annotated[
    Decimal, _As_text, _exact(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,6})?", "a quantity of at most 18 digits and 6 decimals")
]
Price = Annotated[
    Decimal, _As_text, _exact(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?", "a price of at most 12 digits and 12 decimals")
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class Feature(_Strict):
    """Something that a plan switches on or off."""

    description: _Text = ""


class MeterDefinition(_Strict):
    """A Stripe meter: what is sent is floor(total x scale)."""

    scale: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1_000_000)] = 1_000_000
    rounding: Literal["floor"] = "floor"
    mode: Literal["last"] = "last"


class UsageTypeDefinition(_Strict):
    """Something that is counted."""

    description: _Text = ""
    unit: _Text = ""
    feature: Identifier | None = None
    meter: Identifier | None = None


class PlanLimit(_Strict):
    """What a plan grants of one usage type in one period. `limit` None is unlimited."""

    limit: Annotated[Quantity | None, BeforeValidator(_unlimited)]
    enforce: Literal["hard", "soft"] = "hard"
    overage_price: Price | None = None
    period: Period

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_a_limit(cls, data: Any) -> Any:
        # An entry left empty by mistake must not become "unlimited".
        if isinstance(data, dict) and "limit" in data and data["limit"] is None:
            raise ValueError("limit is empty; write a quantity, or `unlimited`")
        return data

    @model_validator(mode="after")
    def _price_needs_a_soft_limit(self) -> PlanLimit:
        if self.limit is None and ("enforce" in self.model_fields_set or self.overage_price is not None):
            raise ValueError("an unlimited usage type has nothing to enforce and no overage")
        if self.enforce == "hard" and self.overage_price is not None:
            raise ValueError("overage_price needs `enforce: soft`; a hard limit lets no overage pass")
        return self

    @property
    def hard(self) -> bool:
        """Whether what goes beyond is denied."""
        return self.limit is not None and self.enforce == "hard"


class Plan(_Strict):
    """What a tenant on it may use."""

    name: Annotated[_Text, Field(min_length=1)]
    features: dict[Identifier, bool] = {}
    limits: dict[Identifier, PlanLimit] = {}


class Tenant(_Strict):
    """Who is on which plan. Its periods start on `anchor_day`."""

    name: _Text = ""
    plan: Identifier | None = None
    anchor_day: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=31)] = 1
    status: Literal["active", "inactive"] = "active"


class Catalog(_Strict):
    """All of it, every reference resolved."""

    features: dict[Identifier, Feature] = {}
    meters: dict[Annotated[Identifier, Field(max_length=100)], MeterDefinition] = {}
    usage_types: dict[Identifier, UsageTypeDefinition] = {}
    plans: dict[Identifier, Plan] = {}
    tenants: dict[Identifier, Tenant] = {}

    def dangling(self) -> list[tuple[tuple[str, ...], str]]:
        """(path, what it names that is not there) of every reference that leads nowhere."""
        wrong: list[tuple[tuple[str, ...], str]] = []

        def check(path: tuple[str, ...], name: str | None, section: str) -> None:
            if name is not None and name not in getattr(self, section):
                wrong.append((path, f"{name} is not in {section}"))

        for usage_type, definition in self.usage_types.items():
            check(("usage_types", usage_type, "feature"), definition.feature, "features")
            check(("usage_types", usage_type, "meter"), definition.meter, "meters")
        for plan_id, plan in self.plans.items():
            for feature in plan.features:
                check(("plans", plan_id, "features", feature), feature, "features")
            for usage_type in plan.limits:
                check(("plans", plan_id, "limits", usage_type), usage_type, "usage_types")
        for tenant_id, tenant in self.tenants.items():
            check(("tenants", tenant_id, "plan"), tenant.plan, "plans")
        return wrong
