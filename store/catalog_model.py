"""The catalog: features, meters, usage types, rates in credits, plans with their limits, and tenants on plans with what is theirs
alone: other limits and features, and grants. As one strict value.

`store.catalog_file` reads it from YAML, `store.catalog` from and into Postgres. Quantities and prices are Decimal
made from text; a float cannot get in.
"""

from __future__ import annotations

import itertools
import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from metering.credits import Overrun
from metering.currencies import step
from metering.grants import DAYS_MAX
from metering.limits import WhenUnavailable
from metering.periods import PeriodKind

UNLIMITED = "unlimited"
ALERTS_DEFAULT = (80, 100, 120)
ALERTS_MAX = 10
CURRENCIES_MAX = 20
RATE_PRICES_MAX = 1_000

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


def _day(value: object) -> object:
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise ValueError(f"want a day such as 2026-10-31; found {value!r}")
        return date.fromisoformat(value)
    return value


def _unlimited(value: object) -> object:
    return None if value == UNLIMITED else value


def _currency(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[a-z]{3}", value):
        raise ValueError(f"want a currency by its three letters, in lower case, such as usd; found {value!r}")
    return value


def _amount(value: object) -> object:
    if isinstance(value, str):
        if not re.fullmatch(r"0|[1-9][0-9]{0,7}", value):
            raise ValueError(
                f"want an amount of the currency's smallest unit, a whole number of at most 8 digits, such as 4900 for 49.00 usd;"
                f" found {value!r}"
            )
        return int(value)
    return value


Identifier = Annotated[str, BeforeValidator(_identifier)]
_Text = Annotated[str, Field(max_length=1_000)]
_Percent = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1_000)]
_As_text = PlainSerializer(format_exact, return_type=str, when_used="unless-none")
Quantity = Annotated[
    Decimal, _As_text, _exact(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,6})?", "a quantity of at most 18 digits and 6 decimals")
]
Price = Annotated[
    Decimal, _As_text, _exact(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?", "a price of at most 12 digits and 12 decimals")
]


Currency = Annotated[str, BeforeValidator(_currency)]
Amount = Annotated[int, BeforeValidator(_amount), Field(ge=0, le=99_999_999)]
"""Of the currency's smallest unit; Stripe takes no more."""


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
    """Something that is counted. `credits`: what one unit costs in a user's credits; None is not priced in credits."""

    description: _Text = ""
    unit: _Text = ""
    feature: Identifier | None = None
    meter: Identifier | None = None
    credits: Price | None = None


class RatePrice(_Strict):
    """A price in credits from its day on: of a model's tokens, or of an operation each time."""

    input: Price | None = None
    output: Price | None = None
    cached: Price | None = None
    """Of input that the model had seen before; None is as `input`."""
    each: Price | None = None
    until: Annotated[date | None, BeforeValidator(_day)] = None
    """The first day without it; None: until the next one begins."""

    @model_validator(mode="before")
    @classmethod
    def _cached_is_as_input(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("cached") is None and data.get("input") is not None:
            return {**data, "cached": data["input"]}
        return data


class Rate(_Strict):
    """What a model (`per_tokens`) or an operation costs in credits, by the UTC day from which each price holds."""

    description: _Text = ""
    per_tokens: Annotated[Annotated[int, Field(ge=1, le=1_000_000_000)] | None, BeforeValidator(_whole)] = None
    prices: Annotated[dict[Annotated[date, BeforeValidator(_day)], RatePrice], Field(min_length=1, max_length=RATE_PRICES_MAX)]

    @model_validator(mode="after")
    def _prices_are_of_its_kind(self) -> Rate:
        days = sorted(self.prices)
        for day, following in itertools.zip_longest(days, days[1:]):
            price = self.prices[day]
            if self.per_tokens is None and (price.each is None or (price.input, price.output, price.cached) != (None,) * 3):
                raise ValueError(f"prices.{day}: an operation has `each`; for a model's tokens say per_tokens, say 1000000")
            if self.per_tokens is not None and (price.each is not None or price.input is None or price.output is None):
                raise ValueError(f"prices.{day}: a model has `input` and `output`, of per_tokens tokens, and perhaps `cached`")
            if price.until is not None and not day < price.until <= (following or price.until):
                raise ValueError(f"prices.{day}: until lies after {day}, and not after the day of the next price")
        return self


class PlanLimit(_Strict):
    """What a plan grants of one usage type in one period. `limit` None is unlimited."""

    limit: Annotated[Quantity | None, BeforeValidator(_unlimited)]
    enforce: Literal["hard", "soft"] = "hard"
    overage_price: Price | None = None
    period: PeriodKind
    when_unavailable: WhenUnavailable | None = None
    """What a check of it answers while Postgres is away; None: it is not answered, but refused with 503."""

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


class CurrencyPrices(_Strict):
    """What a plan costs in one currency: by cycle, in the smallest unit; and `overage`, the price of a unit beyond a limit,
    where the currency is not the plan's own."""

    monthly: Amount | None = None
    yearly: Amount | None = None
    overage: dict[Identifier, Price] = {}

    @model_validator(mode="after")
    def _says_something(self) -> CurrencyPrices:
        if self.monthly is None and self.yearly is None:
            raise ValueError("want `monthly`, `yearly` or both; 0 is free")
        return self


class Plan(_Strict):
    """What a tenant on it may use. `alerts`: the percentages of a limit at which usage is told of, each once a period.

    `prices` are what it costs, by currency; without any it costs nothing. `currency` is what every `overage_price` is in; it
    may be left out where `prices` has only one. `credit_overrun`: what pays where more was used than was held in credits.
    """

    name: Annotated[_Text, Field(min_length=1)]
    currency: Currency | None = None
    prices: Annotated[dict[Currency, CurrencyPrices], Field(max_length=CURRENCIES_MAX)] = {}
    features: dict[Identifier, bool] = {}
    limits: dict[Identifier, PlanLimit] = {}
    alerts: Annotated[tuple[_Percent, ...], Field(max_length=ALERTS_MAX)] = ALERTS_DEFAULT
    credit_overrun: Overrun = "balance"

    @field_validator("alerts")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(low >= high for low, high in itertools.pairwise(value)):
            raise ValueError("want percentages in rising order, each once")
        return value

    @model_validator(mode="after")
    def _prices_are_whole(self) -> Plan:
        """Every amount can be charged, and beyond a limit a price stands in every currency or in none."""
        for currency, prices in self.prices.items():
            for cycle, amount in (("monthly", prices.monthly), ("yearly", prices.yearly)):
                if amount is not None and amount % step(currency):
                    raise ValueError(f"{cycle} of {currency}: {amount} cannot be charged; want a multiple of {step(currency)}")
        if self.main_currency is None and len(self.prices) > 1:
            raise ValueError("with prices in several currencies, say which one `overage_price` is in: `currency: usd`")
        priced = {name for name, limit in self.limits.items() if limit.overage_price is not None}
        for currency, prices in self.prices.items():
            wanted = set() if currency == self.main_currency else priced
            for usage_type in sorted(set(prices.overage) ^ wanted):
                raise ValueError(
                    f"prices.{currency}.overage.{usage_type}: "
                    + (
                        "missing, for the limit has an overage_price; what does a unit cost in this currency?"
                        if usage_type in wanted
                        else "its price is the limit's overage_price"
                        if currency == self.main_currency
                        else "the plan has no limit of it with an overage_price"
                    )
                )
        return self

    @property
    def main_currency(self) -> str | None:
        """What `overage_price` is in; None where nothing says so."""
        return self.currency or (next(iter(self.prices)) if len(self.prices) == 1 else None)


class Grant(_Strict):
    """A one-time top-up: adds `quantity` to the limit on the days [valid_from, expires_on), until it is spent."""

    usage_type: Identifier
    quantity: Annotated[Quantity, Field(gt=0)]
    valid_from: Annotated[date, BeforeValidator(_day)]
    expires_on: Annotated[date, BeforeValidator(_day)]
    note: _Text = ""

    @model_validator(mode="after")
    def _lives_within_bounds(self) -> Grant:
        if not 0 <= (self.expires_on - self.valid_from).days <= DAYS_MAX:
            raise ValueError(f"expires_on lies 0 to {DAYS_MAX} days after valid_from")
        return self


class Tenant(_Strict):
    """Who is on which plan. Its periods start on `anchor_day`.

    `limits` and `features` replace the plan's, entry by entry; None says nothing about them and leaves what stands,
    `{}` takes them away. Of `grants` those that are named are made or changed, the others are left as they are.
    """

    name: _Text = ""
    plan: Identifier | None = None
    anchor_day: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=31)] = 1
    status: Literal["active", "inactive"] = "active"
    features: dict[Identifier, bool] | None = None
    limits: dict[Identifier, PlanLimit] | None = None
    grants: dict[Identifier, Grant] = {}

    def over(self, standing: Tenant | None) -> Tenant:
        """What stands once this is applied over `standing`."""
        if standing is None:
            return self.model_copy(update={"features": self.features or None, "limits": self.limits or None})
        return self.model_copy(
            update={
                "features": (standing.features if self.features is None else self.features) or None,
                "limits": (standing.limits if self.limits is None else self.limits) or None,
                "grants": dict(sorted({**standing.grants, **self.grants}.items())),
            }
        )


class Catalog(_Strict):
    """All of it, every reference resolved."""

    features: dict[Identifier, Feature] = {}
    meters: dict[Annotated[Identifier, Field(max_length=100)], MeterDefinition] = {}
    usage_types: dict[Identifier, UsageTypeDefinition] = {}
    rates: dict[Identifier, Rate] = {}
    plans: dict[Identifier, Plan] = {}
    tenants: dict[Identifier, Tenant] = {}

    def over(self, standing: Catalog) -> Catalog:
        """What stands once this is applied over `standing`, whose other tenants are not spoken of."""
        tenants = {name: tenant.over(standing.tenants.get(name)) for name, tenant in self.tenants.items()}
        return self.model_copy(update={"tenants": tenants})

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
            for feature in tenant.features or ():
                check(("tenants", tenant_id, "features", feature), feature, "features")
            for usage_type in tenant.limits or ():
                check(("tenants", tenant_id, "limits", usage_type), usage_type, "usage_types")
            for name, grant in tenant.grants.items():
                check(("tenants", tenant_id, "grants", name, "usage_type"), grant.usage_type, "usage_types")
        return wrong
