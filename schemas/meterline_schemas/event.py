"""The one definition of a usage event: what a record must be to count, and why one does not.

`decode` is a pure function of the record, its ingest time and the rules version. The consumer's columnar form, the
HTTP edge and the producers all answer to it.

The order of checks is part of the contract, so that a record that breaks several rules has one reason for ever:

 1. header schema-version          unsupported_schema_version
 2. a value is there               empty (null, or no byte)
 3. its size                       too_large
 4. strict UTF-8 over all of it    not_utf8
 5. nesting outside of strings     too_deep
 6. one JSON value                 malformed_json (a lone surrogate, escaped in any string, is malformed)
 7. it is an object                not_an_object
 8. names, in order of appearance  unknown_field
 9. required names, in order of 10 missing_field
10. JSON types, field by field: tenantId, sourceService, sourceEntityId, usageType, quantity, occurredAt, kind,
    corrects, metadata             bad_type (null is no value of any field; leave the field out)
11. ids, in the same order         bad_id
12. quantity, occurredAt, kind     bad_quantity, bad_occurred_at, bad_kind
13. corrects: an object of exactly three ids, there exactly with a correction
                                   bad_corrects
14. metadata: an object, its size  bad_metadata, metadata_too_large
15. the sign of a usage            negative_usage
16. occurredAt against the ingest  too_old, too_far_ahead
17. (by the consumer) partition    misrouted

Of duplicate names the last wins, inside of `corrects` too; what the earlier ones held is not looked at beyond 6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, cast

import msgspec

from meterline_schemas.instants import parse_instant
from meterline_schemas.key import dedup_key
from meterline_schemas.nesting import nesting_of
from meterline_schemas.quantity import MICRO, parse_quantity
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import Rules
from meterline_schemas.types import Kind, Micros

SCHEMA_VERSION_HEADER: Final = "schema-version"

ID_FIELDS: Final = ("tenantId", "sourceService", "sourceEntityId", "usageType")
REQUIRED_FIELDS: Final = (*ID_FIELDS, "quantity")
FIELDS: Final = (*REQUIRED_FIELDS, "occurredAt", "kind", "corrects", "metadata")
CORRECTS_FIELDS: Final = ("sourceService", "sourceEntityId", "usageType")

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]


class Event(msgspec.Struct, frozen=True, gc=False):
    """A usage event that broke no rule. Holds only what its record and ingest time determine."""

    tenant_id: str
    source_service: str
    source_entity_id: str
    usage_type: str
    quantity: Micros
    kind: Kind
    corrects: bytes
    """Dedup key of the corrected event, b"" for a usage. Never looked up."""
    occurred_at_ms: int
    metadata: bytes
    """The JSON object's text as it was sent, b"" when absent."""
    key: bytes
    """Dedup key of this event."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A record that breaks a rule. The four names are filled where they could be read and are themselves valid."""

    reason: Reason
    detail: str
    tenant_id: str = ""
    source_service: str = ""
    source_entity_id: str = ""
    usage_type: str = ""


class Claim(NamedTuple):
    """What two records of one key must share to be the same event."""

    tenant_id: str
    quantity: Micros
    kind: Kind
    corrects: bytes


def claim_of(event: Event) -> Claim:
    return Claim(event.tenant_id, event.quantity, event.kind, event.corrects)


def conflict_reason(admitted: Claim, later: Claim) -> Reason | None:
    """Why a later record of the admitted record's key is a conflict; None when it is a duplicate."""
    if later.tenant_id != admitted.tenant_id:
        return Reason.OTHER_TENANT
    if later.kind != admitted.kind:
        return Reason.OTHER_KIND
    if later.quantity != admitted.quantity:
        return Reason.OTHER_QUANTITY
    if later.corrects != admitted.corrects:
        return Reason.OTHER_CORRECTS
    return None


def decode(value: bytes | None, headers: Headers | None, ingested_ms: int, rules: Rules) -> Event | Invalid:
    """The event in a record, or why there is none. Pure; never raises, whatever the bytes.

    `headers` as the Kafka client gives them; `ingested_ms` is the record's log-append time.
    """
    if headers:
        problem = version_problem(headers, rules)
        if problem:
            return _with_names(Reason.UNSUPPORTED_SCHEMA_VERSION, problem, value, rules)
    if not value:
        return Invalid(Reason.EMPTY, "the record has no value" if value is None else "the record's value is empty")
    unreadable = _unreadable(value, rules)
    if unreadable is not None:
        return unreadable
    try:
        wire = _WIRE.decode(value)
    except msgspec.DecodeError:
        return _decode_with_care(value, ingested_ms, rules)
    return _event(wire, ingested_ms, rules)


class Wire(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """An event's JSON, typed but not yet judged. What must keep its text stays `Raw`; b"" and None are "absent"."""

    tenant_id: str
    source_service: str
    source_entity_id: str
    usage_type: str
    quantity: msgspec.Raw
    occurred_at: str | msgspec.UnsetType = msgspec.UNSET
    kind: str = "usage"
    corrects: msgspec.Raw = msgspec.Raw()
    metadata: msgspec.Raw = msgspec.Raw()


_WIRE: Final = msgspec.json.Decoder(Wire)
_JSON: Final = msgspec.json.Decoder(msgspec.Raw)
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING: Final = msgspec.json.Decoder(str)

# C0, DEL and C1.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_QUANTITY: Final = re.compile(rb'("?)(-?)(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,6}))?\1')


def version_problem(headers: Headers, rules: Rules) -> str | None:
    """Step 1: what is wrong with the headers, None when they may stand."""
    found = [value for name, value in headers if name == SCHEMA_VERSION_HEADER]
    if not found:
        return None
    if len(found) > 1:
        return f"{len(found)} headers {SCHEMA_VERSION_HEADER}; send one"
    for version in rules.schema_versions:
        if found[0] == b"%d" % version:
            return None
    accepted = ", ".join(map(str, sorted(rules.schema_versions)))
    return f"header {SCHEMA_VERSION_HEADER} is {_shown(found[0])}; rules {rules.version} accept {accepted}"


def _unreadable(value: bytes, rules: Rules) -> Invalid | None:
    """Steps 3 to 5: what must hold before any parser sees the bytes."""
    if len(value) > rules.event_bytes_max:
        return Invalid(Reason.TOO_LARGE, f"{len(value)} bytes; at most {rules.event_bytes_max}")
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return Invalid(Reason.NOT_UTF8, f"byte {error.start}: {error.reason}")
    # Splitting stops soon and skips fast; counting would look at each byte by itself.
    if len(value.split(b"{", rules.nesting_max)) + len(value.split(b"[", rules.nesting_max)) - 2 >= rules.nesting_max:
        depth = nesting_of(value)
        if depth > rules.nesting_max:
            return Invalid(Reason.TOO_DEEP, f"nested {depth} deep; at most {rules.nesting_max}")
    return None


def _decode_with_care(value: bytes, ingested_ms: int, rules: Rules) -> Event | Invalid:
    """Steps 6 to 10 one by one: names what is wrong, and takes what only an overwritten duplicate name made look wrong.

    What `_WIRE` takes this would take as well, and make the same of it; a test holds the two together.
    """
    try:
        _JSON.decode(value)
    except msgspec.DecodeError as error:
        return Invalid(Reason.MALFORMED_JSON, str(error))
    try:
        fields = _OBJECT.decode(value)
    except msgspec.ValidationError as error:
        return Invalid(Reason.NOT_AN_OBJECT, str(error))
    names = _names(fields, rules)
    for name in fields:
        if name not in FIELDS:
            return Invalid(Reason.UNKNOWN_FIELD, f"unknown field {_shown(name)}", *names)
    for name in REQUIRED_FIELDS:
        if name not in fields:
            return Invalid(Reason.MISSING_FIELD, f"{name} is missing", *names)
    for name in FIELDS:
        raw = fields.get(name)
        if raw is not None:
            problem = _type_problem(name, bytes(raw))
            if problem:
                return Invalid(Reason.BAD_TYPE, problem, *names)
    ids = [_STRING.decode(fields[name]) for name in ID_FIELDS]
    wire = Wire(ids[0], ids[1], ids[2], ids[3], fields["quantity"])
    if "occurredAt" in fields:
        wire.occurred_at = _STRING.decode(fields["occurredAt"])
    if "kind" in fields:
        wire.kind = _STRING.decode(fields["kind"])
    wire.corrects = fields.get("corrects", wire.corrects)
    wire.metadata = fields.get("metadata", wire.metadata)
    return _event(wire, ingested_ms, rules)


def _type_problem(name: str, raw: bytes) -> str | None:
    """Why a field's JSON type is wrong. `raw` is well-formed, so its first byte tells the type."""
    if raw[:1] == b"n":
        return f"{name} is null; leave it out" if name not in REQUIRED_FIELDS else f"{name} is null"
    if name == "quantity":
        return f"{name} is neither a string nor a number" if raw[:1] in b"tf[{" else None
    if name not in ("corrects", "metadata") and raw[:1] != b'"':
        return f"{name} is not a string"
    return None


def _event(wire: Wire, ingested_ms: int, rules: Rules) -> Event | Invalid:
    """Steps 10 to 16 over well-formed JSON whose scalar fields are strings."""
    tenant_id, service, entity_id, usage_type = wire.tenant_id, wire.source_service, wire.source_entity_id, wire.usage_type
    quantity_raw, corrects_raw, metadata = bytes(wire.quantity), bytes(wire.corrects), bytes(wire.metadata)

    match = _QUANTITY.fullmatch(quantity_raw)
    if match is None and (problem := _type_problem("quantity", quantity_raw)):
        return _invalid(Reason.BAD_TYPE, problem, wire, rules)
    if corrects_raw[:1] == b"n":
        return _invalid(Reason.BAD_TYPE, "corrects is null; leave it out", wire, rules)
    if metadata[:1] == b"n":
        return _invalid(Reason.BAD_TYPE, "metadata is null; leave it out", wire, rules)

    # One look at the four together settles nearly all; printable ASCII is ASCII without control characters.
    together = tenant_id + service + entity_id + usage_type
    if (
        not (tenant_id and service and entity_id and usage_type)
        or len(together) > rules.id_bytes_max
        or not together.isascii()
        or not together.isprintable()
    ):
        for name, text in zip(ID_FIELDS, (tenant_id, service, entity_id, usage_type), strict=True):
            problem = _id_problem(text, rules)
            if problem:
                return _invalid(Reason.BAD_ID, f"{name} {problem}", wire, rules)

    if match is not None:
        _, sign, whole, decimals = match.groups()
        quantity = int(whole) * MICRO
        if decimals is not None:
            quantity += int(decimals.ljust(6, b"0"))
        if sign:
            quantity = -quantity
    else:
        try:
            # A string may spell its digits as escapes; a number is its own text.
            quantity = parse_quantity(_STRING.decode(quantity_raw) if quantity_raw[:1] == b'"' else quantity_raw.decode())
        except ValueError as error:
            return _invalid(Reason.BAD_QUANTITY, str(error), wire, rules)

    occurred_at = wire.occurred_at
    if isinstance(occurred_at, str):
        try:
            occurred_at_ms = parse_instant(occurred_at)
        except ValueError as error:
            return _invalid(Reason.BAD_OCCURRED_AT, str(error), wire, rules)
    else:
        occurred_at_ms = ingested_ms

    kind: Kind
    corrects = b""
    if wire.kind == "usage":
        kind = "usage"
        if corrects_raw:
            return _invalid(Reason.BAD_CORRECTS, "corrects stands in a usage; only a correction has it", wire, rules)
    elif wire.kind == "correction":
        kind = "correction"
        if not corrects_raw:
            return _invalid(Reason.BAD_CORRECTS, "a correction without corrects", wire, rules)
        found = _corrected_key(corrects_raw, rules)
        if isinstance(found, str):
            return _invalid(Reason.BAD_CORRECTS, found, wire, rules)
        corrects = found
    else:
        return _invalid(Reason.BAD_KIND, f"kind is {_shown(wire.kind)}", wire, rules)

    if metadata:
        if metadata[:1] != b"{":
            return _invalid(Reason.BAD_METADATA, "metadata is not an object", wire, rules)
        if len(metadata) > rules.metadata_bytes_max:
            detail = f"metadata has {len(metadata)} bytes; at most {rules.metadata_bytes_max}"
            return _invalid(Reason.METADATA_TOO_LARGE, detail, wire, rules)

    if quantity < 0 and kind == "usage":
        return _invalid(Reason.NEGATIVE_USAGE, "quantity is negative; only a correction's may be", wire, rules)
    ahead_ms = occurred_at_ms - ingested_ms
    if ahead_ms < -rules.past_ms_max:
        detail = f"occurredAt is {-ahead_ms} ms before the ingest time; at most {rules.past_ms_max}"
        return _invalid(Reason.TOO_OLD, detail, wire, rules)
    if ahead_ms > rules.ahead_ms_max:
        detail = f"occurredAt is {ahead_ms} ms after the ingest time; at most {rules.ahead_ms_max}"
        return _invalid(Reason.TOO_FAR_AHEAD, detail, wire, rules)

    key = dedup_key(service, entity_id, usage_type)
    return Event(
        tenant_id, service, entity_id, usage_type, cast(Micros, quantity), kind, corrects, occurred_at_ms, metadata, key
    )  # fmt: skip


def _invalid(reason: Reason, detail: str, wire: Wire, rules: Rules) -> Invalid:
    names = (wire.tenant_id, wire.source_service, wire.source_entity_id, wire.usage_type)
    return Invalid(reason, detail, *(name if _id_problem(name, rules) is None else "" for name in names))


def _corrected_key(raw: bytes, rules: Rules) -> bytes | str:
    """The key that `corrects` names, or what is wrong with it."""
    try:
        fields = _OBJECT.decode(raw)
    except msgspec.ValidationError:
        return "corrects is not an object"
    for name in fields:
        if name not in CORRECTS_FIELDS:
            return f"corrects has an unknown field {_shown(name)}"
    ids: list[str] = []
    for name in CORRECTS_FIELDS:
        text = fields.get(name)
        if text is None:
            return f"corrects.{name} is missing"
        if bytes(text)[:1] != b'"':
            return f"corrects.{name} is not a string"
        ids.append(_STRING.decode(text))
        problem = _id_problem(ids[-1], rules)
        if problem:
            return f"corrects.{name} {problem}"
    return dedup_key(ids[0], ids[1], ids[2])


def _id_problem(text: str, rules: Rules) -> str | None:
    if not text:
        return "is empty"
    if _CONTROL.search(text):
        return "holds a control character"
    if len(text.encode()) > rules.id_bytes_max:
        return f"is longer than {rules.id_bytes_max} bytes"
    return None


def _names(fields: dict[str, msgspec.Raw], rules: Rules) -> list[str]:
    """The four names of the event, each where it is there and valid."""
    names: list[str] = []
    for field in ID_FIELDS:
        raw = bytes(fields.get(field, b""))
        text = _STRING.decode(raw) if raw[:1] == b'"' else ""
        names.append(text if _id_problem(text, rules) is None else "")
    return names


def _with_names(reason: Reason, detail: str, value: bytes | None, rules: Rules) -> Invalid:
    """An Invalid decided before the value was read, with the names in it where they can be read all the same."""
    if not value or _unreadable(value, rules) is not None:
        return Invalid(reason, detail)
    try:
        return Invalid(reason, detail, *_names(_OBJECT.decode(value), rules))
    except msgspec.DecodeError:
        return Invalid(reason, detail)


def _shown(found: str | bytes | None) -> str:
    """What was found, short and in ASCII, for a detail that goes into logs and tables."""
    return ascii(found if found is None else found[:64])
