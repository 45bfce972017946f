"""The port to Stripe: what the exporter needs of it, and nothing more.

`stripe_gateway.py` is the real one; a fake one passes the same contract tests. Every call has a time limit and is made
once; repeating is the exporter's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from metering.export_states import Delivered, Halted, Outcome, Refused, Unclear

CUSTOMERS_MAX = 1_000_000
"""Most customers that one walk over them yields."""

INVOICES_MAX = 1_000_000
"""Most invoices that one look at them reads."""

TENANT_METADATA = "meterline_tenant"
"""The metadata key by which a Stripe customer names its tenant."""

REASON_CHARS_MAX = 500

_DUPLICATE = "An event already exists with identifier "


class GatewayError(Exception):
    """Stripe refused a call that is not an event; the message is its own."""


class GatewayHalted(GatewayError):
    """The key is wrong or may not do this (401, 403)."""


class GatewayMissing(GatewayError):
    """Stripe has no such object (404)."""


class GatewayAway(GatewayError):
    """No clear answer: no connection, a timeout, 429, 5xx. Trying again later may help."""


@dataclass(frozen=True)
class Account:
    """Whose ledger rows these are."""

    id: str
    livemode: bool


@dataclass(frozen=True)
class MeterEvent:
    """One event, as it is frozen in the ledger."""

    meter: str
    customer_id: str
    identifier: str
    value: int
    at: datetime


@dataclass(frozen=True)
class StripeMeter:
    """A meter at Stripe. `meter` is its event name, which is our name for it."""

    id: str
    meter: str
    formula: str
    active: bool


@dataclass(frozen=True)
class StripeCustomer:
    """A customer at Stripe, with the tenant that its metadata names."""

    id: str
    tenant_id: str | None


@dataclass(frozen=True)
class FinalUsage:
    """What a final invoice billed of a meter over a period."""

    invoice_id: str
    finalized_at: datetime
    customer_id: str
    meter: str
    starts_at: datetime
    ends_at: datetime
    quantity: int


class Gateway(Protocol):
    """Safe to share between threads. Methods beside `send` raise GatewayError and its kinds."""

    @property
    def livemode(self) -> bool:
        """Whether the key is a live one."""

    def account(self) -> Account:
        """Whose key it is."""

    def send(self, event: MeterEvent) -> Outcome:
        """Sends the event once. Never raises for what Stripe or the network does."""

    def summary(self, meter_id: str, customer_id: str, start: datetime, end: datetime) -> int | None:
        """The meter's total of [start, end), None where Stripe has no event of it."""

    def final_usage(self, made_since: datetime) -> Iterator[FinalUsage]:
        """The metered lines of every final invoice made since then, at most INVOICES_MAX invoices."""

    def meters(self) -> list[StripeMeter]:
        """Every meter of the account."""

    def create_meter(self, meter: str, display_name: str, formula: Literal["last", "sum"]) -> StripeMeter:
        """Creates a meter; the same call twice makes one."""

    def reactivate_meter(self, meter_id: str) -> None:
        """Makes a deactivated meter take events again."""

    def customers(self) -> Iterator[StripeCustomer]:
        """Every customer of the account, at most CUSTOMERS_MAX."""

    def create_customer(self, tenant_id: str, name: str) -> StripeCustomer:
        """Creates a tenant's customer; the same call twice makes one."""


def outcome_of(status: int | None, message: str, code: str | None, event: MeterEvent, after_s: float = 0.0) -> Outcome:
    """What an answer that is no success means for an event. `status` is None when there was no answer."""
    reason = f"{status or 'no answer'}{f' {code}' if code else ''}: {message}"[:REASON_CHARS_MAX]
    if status == 400 and message.startswith(_DUPLICATE) and event.identifier in message[len(_DUPLICATE) :]:
        return Delivered(duplicate=True)
    if status is None or status in (408, 409, 425, 429) or status >= 500 or status < 400:
        return Unclear(reason, after_s)
    if status in (401, 403):
        return Halted(reason)
    return Refused(reason)
