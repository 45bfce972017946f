"""What the endpoint answers. Quantities are exact decimals; a field that a newer server adds is passed over."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Literal

import msgspec


class Check(msgspec.Struct, rename="camel", frozen=True):
    """May the tenant use this much more? All figures tell how it stood before the quantity that was asked for."""

    allowed: bool
    reason: str
    """Why: `within_plan`, `overage`, `limit_exceeded`, ... (docs/entitlements.md lists them), or `client_unavailable`."""
    remaining: Decimal | None = Decimal(0)
    """None is unlimited."""
    used: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)
    limit: Decimal | None = Decimal(0)
    """None is unlimited."""
    hard_stop: bool = True
    is_exceeded: bool = False
    resets_at: datetime | None = None
    as_of: datetime | None = None
    """Everything logged up to here is counted; None: not known."""


class LogPosition(msgspec.Struct, rename="camel", frozen=True):
    """Where an event stands in the log."""

    epoch: int
    partition: int
    offset: int


class Recorded(msgspec.Struct, rename="camel", frozen=True):
    """`acked`: the log holds the event, at `position`. `spooled`: the server's disk holds it, and the log will."""

    state: Literal["acked", "spooled"]
    position: LogPosition | None = None
    counted: bool | None = None
    """Where counting was waited for: whether the counters held it in time."""


class RecordedOne(msgspec.Struct, rename="camel", frozen=True):
    """What became of one event of a batch. Of a refused one `code` and `detail` say why; 503 may be sent again."""

    index: int
    state: Literal["acked", "spooled", "refused"]
    position: LogPosition | None = None
    counted: bool | None = None
    status: int | None = None
    code: str | None = None
    detail: str | None = None


class RecordedMany(msgspec.Struct, rename="camel", frozen=True):
    """One result an event, in the order sent."""

    accepted: int
    refused: int
    results: tuple[RecordedOne, ...]


class Held(msgspec.Struct, rename="camel", frozen=True):
    """A quantity that is held for the tenant until it is settled, released, or expires."""

    reservation_id: str
    expires_at: datetime
    remaining: Decimal | None
    """What is left beside it; None is unlimited."""
    reason: str = "within_plan"
    """Why it was granted: `within_plan`, `overage` (beyond a soft limit) or `unlimited`."""


class Settled(msgspec.Struct, rename="camel", frozen=True):
    """The usage event is written down and will be published. `expired`: the hold had run out before, so that others may have
    taken what it held; the usage counts all the same."""

    reservation_id: str
    quantity: Decimal
    expired: bool = False


class Period(msgspec.Struct, rename="camel", frozen=True):
    """UTC days [start, end); both None for a lifetime."""

    start: date | None
    end: date | None


class SummaryLine(msgspec.Struct, rename="camel", frozen=True):
    """How one usage type stands in its period."""

    usage_type: str
    used: Decimal
    reserved: Decimal
    limit: Decimal | None
    remaining: Decimal | None
    overage: Decimal
    is_exceeded: bool
    period: Period


class Summary(msgspec.Struct, rename="camel", frozen=True):
    """A tenant's usage by type, in one month."""

    tenant_id: str
    period: str
    as_of: datetime | None
    usage: tuple[SummaryLine, ...]
