"""The wire event as a JSON Schema (draft 2020-12), for teams that validate before they send.

Built from the model and the rules, never by hand; `schemas/usage_event.schema.json` is its committed text.
`python -m meterline_schemas.json_schema` prints it.

JSON Schema sees parsed values, so it cannot say everything: sizes in bytes, UTF-8, depth, the calendar, the window
round the ingest time, and how a number was spelled stay with `decode`. What it refuses, `decode` refuses; a number
is bounded here, and that its text is exact is said in its description.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from meterline_schemas.event import CORRECTS_FIELDS, FIELDS, ID_FIELDS, REQUIRED_FIELDS, Wire
from meterline_schemas.instants import INSTANT_PATTERN
from meterline_schemas.quantity import QUANTITY_PATTERN
from meterline_schemas.rules import NEWEST_RULES, RULES

_ID_PATTERN: Final = "^[^\\u0000-\\u001F\\u007F-\\u009F]+$"
# Some dialects let $ match before a line feed at the end.
_END: Final = "$(?!\\n)"
_ABOUT: Final = {
    "tenantId": "Who is billed: the organization.",
    "sourceService": "The service that did the work.",
    "sourceEntityId": "The piece of work, unique within its source service across tenants: the identity of the event.",
    "usageType": "What was used, such as PHOTO_ANALYSIS_DEEP.",
    "quantity": "Exact decimal with at most 6 decimals; a string, or a number written without exponent.",
    "occurredAt": "When it happened; when absent, the time the log took the event. A day that exists, no leap second.",
    "kind": "A correction may be negative and says what it corrects.",
    "corrects": "The corrected event's identity; required exactly with a correction.",
    "metadata": "Anything more, kept to the letter; at most 32 KiB of text.",
}


def usage_event_schema() -> dict[str, Any]:
    """The schema under the newest rules version."""
    rules = RULES[NEWEST_RULES]
    # A character is at least one byte, so the bound in bytes is a bound in characters too.
    identifier = {"type": "string", "minLength": 1, "maxLength": rules.id_bytes_max, "pattern": _ID_PATTERN}
    properties: dict[str, dict[str, Any]] = {name: dict(identifier) for name in ID_FIELDS}
    properties["quantity"] = {
        "oneOf": [
            {"type": "string", "pattern": f"^{QUANTITY_PATTERN}{_END}"},
            # Inclusive, because a validator may hold 999999999999.999999 as the float 10**12.
            {"type": "number", "minimum": -(10**12), "maximum": 10**12},
        ]
    }
    properties["occurredAt"] = {"type": "string", "pattern": f"^{INSTANT_PATTERN}{_END}"}
    properties["kind"] = {"enum": ["usage", "correction"], "default": "usage"}
    properties["corrects"] = {
        "type": "object",
        "properties": {name: dict(identifier) for name in CORRECTS_FIELDS},
        "required": list(CORRECTS_FIELDS),
        "additionalProperties": False,
    }
    properties["metadata"] = {"type": "object"}

    model = msgspec.inspect.type_info(Wire)
    assert isinstance(model, msgspec.inspect.StructType)
    if [field.encode_name for field in model.fields] != list(FIELDS) or list(properties) != list(FIELDS):
        raise AssertionError("the model, FIELDS and the schema name other fields")
    if [field.encode_name for field in model.fields if field.required] != list(REQUIRED_FIELDS):
        raise AssertionError("the model and REQUIRED_FIELDS require other fields")

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:meterline:usage-event:{max(rules.schema_versions)}",
        "title": "Usage event",
        "description": f"One immutable usage event, the value of one record; at most {rules.event_bytes_max} bytes of UTF-8.",
        "type": "object",
        "properties": {name: {"description": _ABOUT[name], **properties[name]} for name in FIELDS},
        "required": list(REQUIRED_FIELDS),
        "additionalProperties": False,
        "if": {"properties": {"kind": {"const": "correction"}}, "required": ["kind"]},
        "then": {"required": ["corrects"]},
        "else": {
            "not": {"required": ["corrects"]},
            "properties": {
                "quantity": {
                    "oneOf": [
                        # Minus zero is zero.
                        {"type": "string", "pattern": "^([^-]|-0(\\.0+)?$)"},
                        {"type": "number", "minimum": 0},
                    ]
                }
            },
        },
    }


def schema_text() -> str:
    """The committed file's text."""
    return json.dumps(usage_event_schema(), indent=2, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(schema_text())
