"""What goes in and out of the reservations, each once; see `entitlements.models` for how quantities travel."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from entitlements.models import Instant, Name, Number, NumberOrUnlimited, Position, SentQuantity

TTL_DEFAULT_S = 300
TTL_MAX_S = 7 * 86_400

_TTL = {"minimum": 1, "maximum": TTL_MAX_S, "default": TTL_DEFAULT_S}


class ReserveRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Hold this much for a piece of work that begins now."""

    tenant_id: Name
    usage_type: Name
    source_service: Name
    source_entity_id: Name
    """The piece of work, as in the event that settling publishes. Two reservations for one piece of work hold twice."""
    quantity: SentQuantity | UnsetType = UNSET
    """Default 1. The most that the work may use: what it really used is said when it is settled."""
    ttl_seconds: Annotated[int, Meta(extra_json_schema=_TTL)] = TTL_DEFAULT_S
    """After that it holds nothing any more."""
    user_id: Name | UnsetType = UNSET
    """Whose credits are held, and pay, where the usage type is priced in credits."""


class ReserveAnswer(msgspec.Struct, rename="camel"):
    """It is held."""

    reservation_id: str
    expires_at: Instant
    remaining: NumberOrUnlimited
    """What was left after it: limit - used - reserved, never below zero."""
    reason: str
    """Why it was granted: within_plan, overage (beyond a soft limit) or unlimited."""


class SettleRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What was used. An empty body is what was reserved, now."""

    quantity: SentQuantity | UnsetType = UNSET
    """Default: the reserved quantity. It may be more, for what was used is billed."""
    occurred_at: Instant | UnsetType = UNSET
    """Default: the time of the first settling."""
    metadata: Annotated[Raw, Meta(extra_json_schema={"type": "object"})] | UnsetType = UNSET
    """Of the event; stored as sent, at most 32 KiB."""


class SettleAnswer(msgspec.Struct, rename="camel"):
    """The event will be published and counted. The same body again gets the same answer."""

    reservation_id: str
    state: Literal["settled"]
    quantity: Number
    occurred_at: Instant
    expired: bool
    """It was settled after its time: what it held may have been granted to others, and the usage counts all the same."""
    credits_charged: Number | UnsetType = UNSET
    """Where the usage type is priced in credits: what the user paid, at the price of when it was reserved."""
    credits_unpaid: Number | UnsetType = UNSET
    """And what nobody paid, for neither the hold nor the balance reached so far."""


class ReleaseAnswer(msgspec.Struct, rename="camel"):
    """Nothing is held by it any more."""

    reservation_id: str
    state: Literal["released"]


class SettledEvent(msgspec.Struct, rename="camel", omit_defaults=True):
    """The event of a settled reservation."""

    quantity: Number
    occurred_at: Instant
    expired: bool
    counted: bool
    """The counters hold what they will ever hold of it, and the reservation holds nothing any more."""
    position: Position | UnsetType = UNSET
    """Where an acknowledged record of it stands; absent: it is still to be published."""
    verdict: Literal["admitted", "duplicate", "conflict", "invalid"] | UnsetType = UNSET
    """What became of it, some time after it was counted."""


class ReservationAnswer(msgspec.Struct, rename="camel"):
    """A reservation as it stands."""

    reservation_id: str
    tenant_id: str
    usage_type: str
    source_service: str
    source_entity_id: str
    state: Literal["open", "settled", "released", "expired"]
    quantity: Number
    """As reserved."""
    held: Number
    """How much of the limit it takes now."""
    expires_at: Instant
    settled: SettledEvent | None
