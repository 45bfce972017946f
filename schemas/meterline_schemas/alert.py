"""A threshold alert as it travels on `usage.alerts`: a tenant's usage of a limit has reached a percentage of it.

Once for each tenant, usage type, period and threshold: the id is made of these, so that a record that is there twice is
known by it. Decoding is strict, as for every figure that somebody may act on.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

import msgspec

from meterline_schemas.instants import format_instant, parse_instant
from meterline_schemas.quantity import format_quantity, parse_sum
from meterline_schemas.types import Micros

ALERT_SCHEMA_VERSION: Final = 1
"""The value of header `schema-version` on `usage.alerts`."""

LimitPeriod = Literal["day", "month", "billing_period", "lifetime"]

THRESHOLD_MAX: Final = 1_000
_NAMESPACE: Final = uuid.UUID("6d657465-726c-5e21-8a1e-72740a1e7274")


@dataclass(frozen=True, slots=True)
class Alert:
    """`used` is as it was counted when the threshold was seen to be reached: it may be far beyond it."""

    tenant_id: str
    usage_type: str
    limit_period: LimitPeriod
    period_start: date | None
    """None for a lifetime, with period_end: the first day after the period."""
    period_end: date | None
    threshold: int
    """In percent of the limit."""
    used: Micros
    limit: Micros
    hard_stop: bool
    """The limit denies what goes beyond it."""
    raised_at_ms: int

    @property
    def alert_id(self) -> uuid.UUID:
        """The same for the same tenant, usage type, period and threshold, whoever raises it and however often."""
        start = "" if self.period_start is None else self.period_start.isoformat()
        named = [self.tenant_id, self.usage_type, self.limit_period, start, self.threshold]
        return uuid.uuid5(_NAMESPACE, msgspec.json.encode(named).decode())


class _Wire(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    alert_id: str
    tenant_id: str
    usage_type: str
    threshold: int
    used: str
    limit: str
    limit_period: LimitPeriod
    period_start: str | None
    period_end: str | None
    hard_stop: bool
    raised_at: str


_DECODER: Final = msgspec.json.Decoder(_Wire)
_ENCODER: Final = msgspec.json.Encoder()


def encode_alert(alert: Alert) -> bytes:
    """The record's value; its key is the tenant's id."""
    return _ENCODER.encode(
        _Wire(
            alert_id=str(alert.alert_id),
            tenant_id=alert.tenant_id,
            usage_type=alert.usage_type,
            threshold=alert.threshold,
            used=format_quantity(alert.used),
            limit=format_quantity(alert.limit),
            limit_period=alert.limit_period,
            period_start=None if alert.period_start is None else alert.period_start.isoformat(),
            period_end=None if alert.period_end is None else alert.period_end.isoformat(),
            hard_stop=alert.hard_stop,
            raised_at=format_instant(alert.raised_at_ms),
        )
    )


def decode_alert(value: bytes) -> Alert:
    """Raises ValueError that says what is wrong with the record."""
    try:
        wire = _DECODER.decode(value)
    except msgspec.DecodeError as error:
        raise ValueError(f"no alert: {error}") from None
    start, end = _day(wire.period_start), _day(wire.period_end)
    if (start is None) != (end is None) or (start is None) != (wire.limit_period == "lifetime"):
        raise ValueError(f"a period of {wire.limit_period} has a start and an end exactly when it is no lifetime")
    if start is not None and end is not None and start >= end:
        raise ValueError(f"the period ends on {end}, before it starts")
    if not 1 <= wire.threshold <= THRESHOLD_MAX:
        raise ValueError(f"threshold {wire.threshold} is not within 1 to {THRESHOLD_MAX}")
    if not wire.tenant_id or not wire.usage_type:
        raise ValueError("tenantId or usageType is empty")
    used, limit = parse_sum(wire.used), parse_sum(wire.limit)
    if limit < 0 or used * 100 < limit * wire.threshold:
        raise ValueError(f"{wire.used} is less than {wire.threshold} % of {wire.limit}")
    alert = Alert(
        wire.tenant_id,
        wire.usage_type,
        wire.limit_period,
        start,
        end,
        wire.threshold,
        used,
        limit,
        wire.hard_stop,
        parse_instant(wire.raised_at),
    )
    if str(alert.alert_id) != wire.alert_id:
        raise ValueError(f"alertId {wire.alert_id[:64]!a} is not that of this tenant, usage type, period and threshold")
    return alert


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    if len(text) != len("2026-11-21"):
        raise ValueError(f"{text[:64]!a} is no day such as 2026-11-21")
    return date.fromisoformat(text)
