"""Making an event: from what a caller has in hand to the bytes that the log takes.

Whatever is made here is read back with `decode` before it leaves, so a producer never sends what the consumer refuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

from meterline_schemas.event import CORRECTS_FIELDS, Event, Invalid, decode
from meterline_schemas.instants import format_instant
from meterline_schemas.key import parse_key
from meterline_schemas.quantity import format_quantity
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import NEWEST_RULES, RULES, Rules
from meterline_schemas.types import Kind

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_QUANTITY_BELOW: Final = 10**12
_ENCODER: Final = msgspec.json.Encoder()
_JSON: Final = msgspec.json.Decoder(msgspec.Raw)
_NAMES: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class InvalidEvent(ValueError):
    """The event breaks a rule and was not sent. `reason` is the code, `detail` what was found, `reason.remedy` what to do."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}. {reason.remedy}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return InvalidEvent, (self.reason, self.detail)


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event as its maker knows it. Nothing is checked before `encode_event`."""

    tenant_id: str
    source_service: str
    source_entity_id: str
    """Unique within its source service, across tenants: it says which piece of work this is, for ever."""
    usage_type: str
    quantity: str | int | Decimal
    """Whole units: 2 is two. Never a float, which is not exact."""
    occurred_at: datetime | str | None = None
    """An aware datetime, or the wire's text as it is; None leaves it to the log's ingest time."""
    kind: Kind = "usage"
    corrects: tuple[str, str, str] | None = None
    """(source_service, source_entity_id, usage_type) of the event that a correction corrects."""
    metadata: Mapping[str, Any] | bytes | None = None
    """What JSON can hold, or the text of a JSON object, which is kept to the letter."""


class EncodedEvent(NamedTuple):
    """A record's value, and the event that the consumer will read from it; its key is `event.key`."""

    value: bytes
    event: Event


def encode_event(draft: EventDraft, now_ms: int, rules: Rules = RULES[NEWEST_RULES]) -> EncodedEvent:
    """The record of a draft. `now_ms` stands for the ingest time in the checks that need one.

    Raises InvalidEvent with the same reason that `decode` would give the record.
    """
    fields: dict[str, object] = {
        "tenantId": draft.tenant_id,
        "sourceService": draft.source_service,
        "sourceEntityId": draft.source_entity_id,
        "usageType": draft.usage_type,
        "quantity": quantity_text(draft.quantity),
    }
    if draft.occurred_at is not None:
        fields["occurredAt"] = instant_text(draft.occurred_at)
    if draft.kind != "usage":
        fields["kind"] = draft.kind
    if draft.corrects is not None:
        if len(draft.corrects) != len(CORRECTS_FIELDS):
            raise InvalidEvent(Reason.BAD_CORRECTS, f"corrects has {len(draft.corrects)} parts, not {', '.join(CORRECTS_FIELDS)}")
        fields["corrects"] = dict(zip(CORRECTS_FIELDS, draft.corrects, strict=True))
    if draft.metadata is not None:
        fields["metadata"] = msgspec.Raw(metadata_text(draft.metadata))
    try:
        value = _ENCODER.encode(fields)
    except UnicodeEncodeError as error:
        raise InvalidEvent(Reason.NOT_UTF8, f"a text holds a lone surrogate at {error.start}") from None
    except TypeError as error:
        raise InvalidEvent(Reason.BAD_TYPE, str(error)) from None
    event = decode(value, None, now_ms, rules)
    if isinstance(event, Invalid):
        raise InvalidEvent(event.reason, event.detail)
    return EncodedEvent(value, event)


def draft_from_json(value: bytes, now_ms: int, rules: Rules = RULES[NEWEST_RULES]) -> EventDraft:
    """The draft of an event that someone wrote as the wire's JSON. Raises InvalidEvent as `encode_event` does.

    Encoding it gives the same event; quantity and occurredAt come out in their shortest forms, metadata to the letter.
    """
    event = decode(value, None, now_ms, rules)
    if isinstance(event, Invalid):
        raise InvalidEvent(event.reason, event.detail)
    given = "occurredAt" in _NAMES.decode(value)
    return EventDraft(
        event.tenant_id,
        event.source_service,
        event.source_entity_id,
        event.usage_type,
        format_quantity(event.quantity),
        format_instant(event.occurred_at_ms) if given else None,
        event.kind,
        parse_key(event.corrects) if event.corrects else None,
        event.metadata or None,
    )


def quantity_text(quantity: object) -> str:
    """The wire's text of a quantity, exact. A text is passed on as it is; raises InvalidEvent for what cannot be exact."""
    if isinstance(quantity, str):
        return quantity
    if isinstance(quantity, bool) or not isinstance(quantity, int | Decimal):
        raise InvalidEvent(Reason.BAD_QUANTITY, f"a {type(quantity).__name__} is not exact; pass a str, an int or a Decimal")
    if isinstance(quantity, int):
        if abs(quantity) >= _QUANTITY_BELOW:
            raise InvalidEvent(Reason.BAD_QUANTITY, "more than 12 digits before the point")
        return str(quantity)
    # Exact by hand: Decimal's own arithmetic rounds to the caller's context, or raises by it.
    sign, digits, exponent = quantity.as_tuple()
    if not isinstance(exponent, int):
        raise InvalidEvent(Reason.BAD_QUANTITY, f"{quantity} is no number")
    text = "".join(map(str, digits)).lstrip("0")
    if not text:
        return "0"
    shorter = text.rstrip("0")
    exponent += len(text) - len(shorter)
    if exponent < -6:
        raise InvalidEvent(Reason.BAD_QUANTITY, "more than 6 decimals")
    if len(shorter) + exponent > 12:
        raise InvalidEvent(Reason.BAD_QUANTITY, "more than 12 digits before the point")
    micros = int(shorter) * 10 ** (exponent + 6)
    return format_quantity(-micros if sign else micros)


def instant_text(at: datetime | str) -> str:
    """The wire's text of an instant, in UTC. A text is passed on as it is; raises InvalidEvent."""
    if isinstance(at, str):
        return at
    if at.tzinfo is None:
        raise InvalidEvent(Reason.BAD_OCCURRED_AT, "a datetime without a time zone; pass an aware one, such as datetime.now(UTC)")
    try:
        return format_instant((at - _EPOCH) // _MILLISECOND)
    except ValueError:
        raise InvalidEvent(Reason.BAD_OCCURRED_AT, f"{at} lies outside of the years 1 to 9999 in UTC") from None


def metadata_text(metadata: Mapping[str, Any] | bytes) -> bytes:
    """JSON as the standard library writes it, which refuses what JSON cannot hold where others write null."""
    if isinstance(metadata, bytes):
        try:
            # One JSON value and nothing after it, or its end could pass for further fields of the event.
            return bytes(_JSON.decode(metadata))
        except msgspec.DecodeError as error:
            raise InvalidEvent(Reason.MALFORMED_JSON, f"metadata: {error}") from None
        except RecursionError:
            raise InvalidEvent(Reason.TOO_DEEP, "metadata nests too deep to be read") from None
    try:
        return json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise InvalidEvent(Reason.NOT_UTF8, "metadata holds a lone surrogate") from None
    except (TypeError, ValueError) as error:
        raise InvalidEvent(Reason.BAD_METADATA, str(error)) from None
    except RecursionError:
        raise InvalidEvent(Reason.TOO_DEEP, "metadata nests too deep to be written") from None
