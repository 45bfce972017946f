"""The port to Stripe's products and prices: what setup needs to make the catalog's. `stripe_gateway.py` is the real one.

Every method has a time limit, is made once, and raises GatewayError and its kinds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from billing_exporter.gateway import Account, StripeMeter


@dataclass(frozen=True)
class StripeProduct:
    """A product at Stripe."""

    id: str
    name: str
    active: bool


@dataclass(frozen=True)
class PriceTerms:
    """All that decides what a recurring price bills. `monthly` is every month, else every year. `figures` are
    {"amount"} of a price a piece, {"included", "unit_amount"} of a graduated one; empty for a price of another make."""

    product_id: str
    currency: str
    monthly: bool
    meter_id: str | None
    figures: Mapping[str, str]


@dataclass(frozen=True)
class FoundPrice:
    """A price at Stripe, found by its lookup key."""

    id: str
    lookup_key: str
    active: bool
    terms: PriceTerms


@dataclass(frozen=True)
class PriceOrder:
    """A price to be made. The lookup key is taken from the price that has it."""

    lookup_key: str
    terms: PriceTerms
    nickname: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class PriceGateway(Protocol):
    """Safe to share between threads."""

    def account(self) -> Account:
        """Whose key it is."""

    def meters(self) -> list[StripeMeter]:
        """Every meter of the account."""

    def product(self, product_id: str) -> StripeProduct | None:
        """A product by the id that we gave it."""

    def create_product(self, product_id: str, name: str) -> None:
        """Creates a product; the same id twice makes one."""

    def update_product(self, product_id: str, name: str) -> None:
        """Gives a product its name, and offers it again."""

    def prices(self, lookup_keys: Collection[str]) -> list[FoundPrice]:
        """The prices with these lookup keys."""

    def create_price(self, order: PriceOrder) -> str:
        """Creates a price and returns its id. Twice makes two, of which the later one has the lookup key: look for it first."""

    def archive_price(self, price_id: str) -> None:
        """Offers a price no more; who is subscribed to it keeps it."""

    def finalization_grace_s(self) -> int | None:
        """The shortest time that drafts of the account now wait until they are final; None while there is no draft."""
