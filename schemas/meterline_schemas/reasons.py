"""Why a record was not admitted: a closed set of codes, each with what to do about it.

Codes are stored with each reject and never change their meaning; a new rules version may add some.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A code. `remedy` says what the sender does about it; the reject's detail says what was found."""

    remedy: str

    def __new__(cls, code: str, remedy: str = "") -> Reason:
        member = str.__new__(cls, code)
        member._value_ = code
        member.remedy = remedy
        return member

    # Invalid: the record breaks a rule and claims no key. In the order in which they are looked for.
    UNSUPPORTED_SCHEMA_VERSION = (
        "unsupported_schema_version",
        "Send exactly one header schema-version with a version that the rules in force accept, or none for version 1.",
    )
    EMPTY = "empty", "Send the event as the record's value: a record without one is no event."
    TOO_LARGE = "too_large", "Keep the whole value within 64 KiB; put bulk elsewhere and its address into metadata."
    NOT_UTF8 = "not_utf8", "Encode the whole value as UTF-8."
    TOO_DEEP = "too_deep", "Nest objects and arrays at most 32 deep, the event itself included."
    MALFORMED_JSON = "malformed_json", "Send one JSON value as RFC 8259 has it: no NaN, no comments, no lone surrogates."
    NOT_AN_OBJECT = "not_an_object", "Send one JSON object a record; several events are several records."
    UNKNOWN_FIELD = "unknown_field", "Correct the field's name; what is your own belongs into metadata."
    MISSING_FIELD = (
        "missing_field",
        "Send the field; tenantId, sourceService, sourceEntityId, usageType and quantity are required.",
    )
    BAD_TYPE = "bad_type", "Send the JSON type that the schema names; leave an optional field out instead of sending null."
    BAD_ID = "bad_id", "Ids are 1 to 256 bytes of UTF-8 without control characters."
    BAD_QUANTITY = "bad_quantity", "Send a decimal such as 1.5: at most 12 digits before the point and 6 after it, no exponent."
    BAD_OCCURRED_AT = (
        "bad_occurred_at",
        "Send YYYY-MM-DDThh:mm:ss[.fraction] with Z or an offset such as +02:00, on a day that exists.",
    )
    BAD_KIND = "bad_kind", "kind is usage or correction."
    BAD_CORRECTS = (
        "bad_corrects",
        "Send corrects with a correction and only then: an object of sourceService, sourceEntityId and usageType.",
    )
    BAD_METADATA = "bad_metadata", "metadata is a JSON object."
    METADATA_TOO_LARGE = "metadata_too_large", "Keep the text of metadata within 32 KiB."
    NEGATIVE_USAGE = "negative_usage", "To take usage back send kind correction with corrects; usage itself is zero or more."
    TOO_OLD = "too_old", "occurredAt may lie at most 400 days before the time the log took the event."
    TOO_FAR_AHEAD = (
        "too_far_ahead",
        "occurredAt may lie at most 5 minutes after the time the log took the event; check the clock.",
    )
    MISROUTED = (
        "misrouted",
        "Partition by murmur2 of the dedup key (librdkafka: partitioner=murmur2_random), or replay it with `rejects replay`.",
    )

    # Conflict: another record was admitted under the same key, and this is what differs.
    OTHER_TENANT = (
        "other_tenant",
        "The work was billed to another tenant; if both are right, give this one its own sourceEntityId.",
    )
    OTHER_KIND = "other_kind", "A correction has a sourceEntityId of its own, never that of what it corrects."
    OTHER_QUANTITY = "other_quantity", "An event never changes; send a correction with a sourceEntityId of its own."
    OTHER_CORRECTS = (
        "other_corrects",
        "A correction corrects one event; send another correction with a sourceEntityId of its own.",
    )

    # Duplicate, kept because its bytes differ from the admitted record's.
    DIFFERING_DUPLICATE = "differing_duplicate", "Nothing: the first record counts. A retry had a new clock or other metadata."


INVALID_REASONS = frozenset(
    reason for reason in Reason if not reason.name.startswith("OTHER_") and reason is not Reason.DIFFERING_DUPLICATE
)
"""The reasons of the verdict `invalid`; `decode` gives all of them but `misrouted`, which needs the record's partition."""
