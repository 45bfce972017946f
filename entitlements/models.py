"""What goes in and out over HTTP, each once: the structs that are parsed and written are the structs that /docs shows.

Quantities travel as exact JSON numbers. A request's is kept as its text (`Raw`), because a parser's number would round
it; an answer's is written from an exact decimal text.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from metering.limits import Reason
from meterline_schemas.quantity import QUANTITY_PATTERN, format_quantity

CHECKS_MAX = 100
EVENTS_MAX = 1_000

_SENT_QUANTITY = {
    "oneOf": [{"type": "number", "multipleOf": 0.000001}, {"type": "string", "pattern": f"^{QUANTITY_PATTERN}$"}],
}

# Limits stand in the schema only: they are checked in one place, `entitlements.bodies` and the event codec, with their codes.
Name = Annotated[
    str,
    Meta(description="1-256 bytes of UTF-8 without control characters.", extra_json_schema={"minLength": 1, "maxLength": 256}),
]
SentQuantity = Annotated[
    Raw, Meta(description="At most 12 digits before the point and 6 after it, no exponent.", extra_json_schema=_SENT_QUANTITY)
]
Number = Annotated[Raw, Meta(description="Exact: read it as a decimal, not as a double.", extra_json_schema={"type": "number"})]
NumberOrUnlimited = Annotated[
    Raw | None,
    Meta(description="null is unlimited.", extra_json_schema={"anyOf": [{"type": "number"}, {"type": "null"}]}),
]
NumberOrNone = Annotated[
    Raw | None,
    Meta(
        description="null: there is no limit to hold it against.",
        extra_json_schema={"anyOf": [{"type": "number"}, {"type": "null"}]},
    ),
]
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
AsOf = Annotated[
    Instant | None,
    Meta(description="Everything logged up to here is counted. null: not known yet, as before the first sample."),
]


def number(micros: int) -> Raw:
    """Millionths as the text of a JSON number."""
    return Raw(format_quantity(micros).encode())


def number_or_unlimited(micros: int | None) -> Raw | None:
    return None if micros is None else number(micros)


class CheckRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """May this tenant use this much more of a usage type, or use a feature at all? Send usageType or feature."""

    tenant_id: Name
    usage_type: Name | UnsetType = UNSET
    feature: Name | UnsetType = UNSET
    quantity: SentQuantity | UnsetType = UNSET
    """Default 1. Zero or more. A feature has none to count down: sent with one, it changes nothing."""
    user_id: Name | UnsetType = UNSET
    """Whose credits would pay, where the usage type is priced in credits."""


class CheckAnswer(msgspec.Struct, rename="camel"):
    """`allowed` and `reason` answer the question; all else is how the tenant stood before it, for a check holds nothing."""

    allowed: bool
    remaining: NumberOrUnlimited
    """What was left before this quantity: limit - used - reserved, never below zero."""
    reason: Reason
    used: Number
    """Counted in the limit's period."""
    reserved: Number
    limit: NumberOrUnlimited
    hard_stop: bool
    """Denied with this true: the operation must not run. False: more is allowed and becomes overage."""
    is_exceeded: bool
    """`used` is above the limit already."""
    resets_at: Instant | None
    """When the period ends; null where nothing resets, as with a lifetime limit."""
    as_of: AsOf
    age_seconds: int | UnsetType = UNSET
    """Only with degraded_allow and degraded_deny from a remembered state: how long ago that was read. Absent: nothing is
    remembered of it, and the figures say nothing."""


class CheckBatchRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Up to 100 checks, read at one moment."""

    checks: Annotated[
        list[Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/CheckRequest"})]],
        Meta(extra_json_schema={"minItems": 1, "maxItems": CHECKS_MAX}),
    ]


class CheckBatchAnswer(msgspec.Struct, rename="camel"):
    """One answer a check, in the order asked."""

    results: list[CheckAnswer]


class Corrected(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The event that a correction corrects."""

    source_service: Name
    source_entity_id: Name
    usage_type: Name


class UsageEvent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """One piece of usage. Idempotent by sourceService, sourceEntityId and usageType: sending it again counts nothing twice."""

    tenant_id: Name
    source_service: Name
    source_entity_id: Name
    usage_type: Name
    quantity: SentQuantity
    occurred_at: Instant | UnsetType = UNSET
    """RFC 3339 with an offset; absent: the time at which the log takes it. From 400 days ago to 5 minutes ahead."""
    kind: Literal["usage", "correction"] = "usage"
    corrects: Corrected | UnsetType = UNSET
    """Exactly with a correction, whose quantity may be negative."""
    metadata: Annotated[Raw, Meta(extra_json_schema={"type": "object"})] | UnsetType = UNSET
    """Stored as sent, at most 32 KiB."""


class UsageBatchRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Up to 1,000 events, each taken or refused by itself."""

    events: Annotated[
        list[Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/UsageEvent"})]],
        Meta(extra_json_schema={"minItems": 1, "maxItems": EVENTS_MAX}),
    ]


class Position(msgspec.Struct, rename="camel"):
    """Where the event stands in the log."""

    epoch: int
    partition: int
    offset: int


class UsageAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """`acked`: the log holds it, at `position`. `spooled`: this server's disk holds it and the log will; not acknowledged yet."""

    state: Literal["acked", "spooled"]
    position: Position | UnsetType = UNSET
    counted: bool | UnsetType = UNSET
    """With wait=counted: whether the counters held it before the timeout."""


class UsageResult(msgspec.Struct, rename="camel", omit_defaults=True):
    """What became of one event of a batch."""

    index: int
    state: Literal["acked", "spooled", "refused"]
    position: Position | UnsetType = UNSET
    counted: bool | UnsetType = UNSET
    status: int | UnsetType = UNSET
    """Of a refused one: the HTTP status it would have had alone. 503 may be sent again as it is."""
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class UsageBatchAnswer(msgspec.Struct, rename="camel"):
    """One result an event, in the order sent."""

    accepted: int
    refused: int
    results: list[UsageResult]


class SummaryPeriod(msgspec.Struct, rename="camel"):
    """The UTC days over which `used` is summed; both null for a lifetime."""

    start: str | None
    end: str | None
    """The first day after it."""


class Projection(msgspec.Struct, rename="camel"):
    """Where usage leads by the end of the running period."""

    method: Literal["linear"]
    """linear: what was used until `asOf` is spread evenly over the time until then, an hour at least, and goes on so."""
    used: Number
    overage: Number
    percent: NumberOrNone


class SummaryLine(msgspec.Struct, rename="camel"):
    """How one usage type stands in its period."""

    usage_type: str
    used: Number
    reserved: Number
    limit: NumberOrUnlimited
    """What the plan or the tenant's own limit allows, and what grants add to it."""
    granted: Number
    """The part of `limit` that grants add."""
    remaining: NumberOrUnlimited
    overage: Number
    is_exceeded: bool
    used_percent: NumberOrNone
    """Of `limit`, to a hundredth, rounded down."""
    thresholds: list[int]
    """The percentages at which the plan has alerts sent."""
    threshold_reached: int | None
    """The highest of them that `used` has reached; null: none."""
    projection: Projection | None
    """null: the period is over, has no end, or is a month of daily limits."""
    hard_stop: bool
    in_plan: bool
    """False: it was used although the plan does not name it."""
    limit_period: Literal["day", "month", "billing_period", "lifetime"] | None
    """What the limit counts. Of a daily one in a named month, overage adds up the days and remaining is the newest day's."""
    period: SummaryPeriod


class SummaryAnswer(msgspec.Struct, rename="camel"):
    """A tenant's usage by type."""

    tenant_id: str
    period: str
    """YYYY-MM: the month that is shown. Each line has the days of its own period."""
    as_of: AsOf
    usage: list[SummaryLine]
    next_cursor: str | None
    """Send it as `cursor` for the next page; null: this is the last."""


class SeriesLine(msgspec.Struct, rename="camel"):
    """What was used of a type within one day or hour."""

    usage_type: str
    start: Instant
    quantity: Number
    events: int


class SeriesAnswer(msgspec.Struct, rename="camel"):
    """A page of a tenant's usage over time, in order of time and type. Days and hours without usage have no line."""

    tenant_id: str
    granularity: Literal["day", "hour"]
    as_of: AsOf
    series: list[SeriesLine]
    next_cursor: str | None
    """Send it as `cursor`, with the same query, for the next page; null: this is the last."""


class EventLine(msgspec.Struct, rename="camel", omit_defaults=True):
    """One admitted event, and where it stands in the log."""

    usage_type: str
    quantity: Number
    occurred_at: Instant
    source_service: str
    source_entity_id: str
    kind: Literal["usage", "correction"]
    ingested_at: Instant
    epoch: int
    partition: int
    offset: int
    metadata: Annotated[Raw, Meta(extra_json_schema={"type": "object"})] | UnsetType = UNSET


class EventsAnswer(msgspec.Struct, rename="camel"):
    """A page of the events behind a number, in order of time."""

    tenant_id: str
    as_of: AsOf
    events: list[EventLine]
    next_cursor: str | None
    """Send it as `cursor`, with the same query, for the next page; null: this is the last."""


class Explained(msgspec.Struct, rename="camel"):
    """Where an event is. The lists and objects are those of `meterline explain --json`, in camelCase."""

    known: bool
    verdict: str
    """In one sentence, what became of it."""
    source_service: str
    source_entity_id: str
    usage_type: str
    key: str
    partition: dict[str, Any]
    as_of: AsOf
    admitted: list[dict[str, Any]]
    rejects: list[dict[str, Any]]
    delta: dict[str, Any] | None
    counter: dict[str, Any] | None
    exports: list[dict[str, Any]]


class Health(msgspec.Struct, rename="camel"):
    """The process is alive."""

    status: Literal["ok"]


class Ready(msgspec.Struct, rename="camel"):
    """Whether requests can be served, and what each dependency says: `ok`, or what is wrong with it."""

    ready: bool
    checks: dict[str, str]


class ProblemDocument(msgspec.Struct, rename="camel"):
    """An error, as RFC 9457 has it. `code` is for programs and stable; `detail` says what to do."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


ENCODER = msgspec.json.Encoder()
