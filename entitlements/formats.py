"""The forms in which usage comes: our own JSON, newline-delimited JSON, and CloudEvents 1.0; each becomes our own.

A CloudEvent maps so:

    source -> sourceService      id -> sourceEntityId      type -> usageType
    subject -> tenantId          time -> occurredAt        data -> {quantity, and optionally metadata, kind, corrects}

`specversion` is "1.0", `data` is JSON. Extension attributes are ignored, as the specification wants of a consumer that does
not know them; a field of `data` that is not ours is refused, as everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal
from urllib.parse import unquote

import msgspec
from msgspec import UNSET, Raw, UnsetType

from entitlements.bodies import parse_items, readable
from entitlements.models import EVENTS_MAX, UsageBatchRequest
from entitlements.problems import Problem
from meterline_schemas.reasons import Reason

Form = Literal["json", "ndjson", "cloudevent", "cloudevents"]

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
CLOUDEVENT: Final = "application/cloudevents+json"
CLOUDEVENTS: Final = "application/cloudevents-batch+json"

_FORMS: Final[dict[str, Form]] = {
    NDJSON: "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    CLOUDEVENT: "cloudevent",
    CLOUDEVENTS: "cloudevents",
}
_ATTRIBUTES: Final = {"id": "sourceEntityId", "source": "sourceService", "type": "usageType", "subject": "tenantId"}
_HEADER: Final = b"ce-"


class _Data(msgspec.Struct, forbid_unknown_fields=True):
    quantity: Raw | UnsetType = UNSET
    kind: Raw | UnsetType = UNSET
    corrects: Raw | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


class _CloudEvent(msgspec.Struct):
    specversion: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    time: str | UnsetType = UNSET
    datacontenttype: str | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    data_base64: Raw | UnsetType = UNSET


_BATCH: Final = msgspec.json.Decoder(UsageBatchRequest)
_CLOUD_EVENT: Final = msgspec.json.Decoder(_CloudEvent)
_DATA: Final = msgspec.json.Decoder(_Data)
_ENCODER: Final = msgspec.json.Encoder()

Headers = Sequence[tuple[bytes, bytes]]
Item = bytes | Problem
"""An event in our own form, or what keeps it from being one."""


def form_of(headers: Headers) -> Form:
    """What the body is, by its Content-Type; ours, where it says nothing that is known here."""
    for name, value in headers:
        if name == b"content-type":
            return _FORMS.get(value.decode("latin-1").partition(";")[0].strip().lower(), "json")
    return "json"


def one(headers: Headers, body: bytes) -> bytes:
    """The event of a body that holds one, in our own form. Raises Problem 400, 415."""
    form = form_of(headers)
    if form == "json":
        event = _of_headers(headers, body)
        return body if event is None else event
    if form == "cloudevent":
        return _mapped(readable(body))
    raise Problem(415, "unsupported_media_type", "This body holds several events; send it to /v1/billing/usage/batch.")


def many(headers: Headers, body: bytes) -> list[Item]:
    """The events of a batch. Raises Problem 400 for what is no batch at all, 415."""
    form = form_of(headers)
    if form == "json":
        return list[Item](parse_items(_BATCH, "events", EVENTS_MAX, body))
    if form == "ndjson":
        # Each line is looked at by itself, so that one that is not even UTF-8 is refused alone.
        lines = [line for line in body.split(b"\n") if line and not line.isspace()]
        if not 1 <= len(lines) <= EVENTS_MAX:
            raise Problem(400, "bad_batch", f"The body has {len(lines)} lines; send 1 to {EVENTS_MAX}.")
        return list[Item](lines)
    if form == "cloudevents":
        items: list[Item] = []
        for item in parse_items(_BATCH, "events", EVENTS_MAX, body):
            try:
                items.append(_mapped(readable(item)))
            except Problem as problem:
                items.append(problem)
        return items
    raise Problem(415, "unsupported_media_type", "This body holds one event; send it to /v1/billing/usage.")


def _mapped(body: bytes) -> bytes:
    """A CloudEvent, of which a parser may see the bytes, in our own form. Raises Problem 400."""
    try:
        return _usage(_CLOUD_EVENT.decode(body))
    except msgspec.ValidationError as error:
        raise Problem(400, Reason.BAD_TYPE.value, f"{error}. A CloudEvent's attributes are strings.") from None
    except msgspec.DecodeError as error:
        raise Problem.of_reason(Reason.MALFORMED_JSON, str(error)) from None


def _of_headers(headers: Headers, body: bytes) -> bytes | None:
    """A CloudEvent in binary mode (attributes as `ce-` headers, the body is its data) in our own form; None when it is none."""
    if not any(name.startswith(_HEADER) for name, _ in headers):
        return None
    given: dict[str, object] = {}
    for name, value in headers:
        if name.startswith(_HEADER):
            attribute = name.removeprefix(_HEADER).decode("latin-1")
            if attribute in given:
                raise Problem(400, "bad_cloudevent", f"The header {name.decode('latin-1')} is there twice; send it once.")
            try:
                given[attribute] = unquote(value.decode("ascii"), errors="strict")
            except UnicodeDecodeError:
                raise Problem.of_reason(Reason.NOT_UTF8, f"the header {name.decode('latin-1')}") from None
    event = msgspec.convert({name: text for name, text in given.items() if name not in ("data", "data_base64")}, _CloudEvent)
    event.data = Raw(readable(body))
    return _usage(event)


def _usage(event: _CloudEvent) -> bytes:
    if event.specversion != "1.0":
        raise Problem(400, "bad_cloudevent", 'specversion is not "1.0"; send a CloudEvent of that version.')
    fields: dict[str, object] = {}
    for attribute, name in _ATTRIBUTES.items():
        text = getattr(event, attribute)
        if text is UNSET:
            raise Problem(400, Reason.MISSING_FIELD.value, f"The CloudEvent has no {attribute}, which is the {name}. Send it.")
        fields[name] = text
    content_type = "" if event.datacontenttype is UNSET else event.datacontenttype.partition(";")[0].strip().lower()
    if content_type and content_type != JSON and not content_type.endswith("+json"):
        raise Problem(400, "bad_cloudevent", "datacontenttype is not JSON; send the data as application/json.")
    if event.data_base64 is not UNSET or event.data is UNSET:
        raise Problem(400, "bad_cloudevent", "The CloudEvent has no JSON data; send data with a quantity.")
    try:
        data = _DATA.decode(event.data)
    except msgspec.ValidationError as error:
        code = Reason.UNKNOWN_FIELD if "unknown field" in str(error) else Reason.BAD_TYPE
        raise Problem(
            400, code.value, f"data: {error}. It is an object of quantity, and if need be metadata, kind, corrects."
        ) from None
    except msgspec.DecodeError as error:
        raise Problem.of_reason(Reason.MALFORMED_JSON, f"data: {error}") from None
    if event.time is not UNSET:
        fields["occurredAt"] = event.time
    fields |= {name: value for name in _Data.__struct_fields__ if (value := getattr(data, name)) is not UNSET}
    try:
        return _ENCODER.encode(fields)
    except UnicodeEncodeError:
        raise Problem.of_reason(Reason.NOT_UTF8, "a text holds a lone surrogate") from None
