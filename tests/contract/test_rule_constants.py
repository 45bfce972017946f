"""Every constant of the rules has an example on both sides of it: the last that is taken, and the first that is not.

That an example lies at the limit is shown by moving the limit by one: the one that is taken must then be refused, and the
one that is refused must then be taken.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from meterline_schemas.event import Event, Invalid, decode
from meterline_schemas.ingest import INGESTED_AT_HEADER, ingested_ms
from meterline_schemas.quantity import QUANTITY_PATTERN
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import NEWEST_RULES, RULES, Rules
from tests.contract.golden import documents, record_of

VALID = documents("usage.events/valid")
INVALID = documents("usage.events/invalid")
NEWEST = RULES[NEWEST_RULES]


class Sides(NamedTuple):
    """Names of golden examples, and why the one beyond is refused."""

    at: str
    beyond: str
    reason: Reason


LIMITS = {
    "event_bytes_max": Sides("value-of-64-kib", "too_large-by-one-byte", Reason.TOO_LARGE),
    "nesting_max": Sides("nested-32", "too_deep-33", Reason.TOO_DEEP),
    "id_bytes_max": Sides("id-of-256-bytes", "bad_id-257-bytes", Reason.BAD_ID),
    "metadata_bytes_max": Sides("metadata-of-32-kib", "metadata_too_large-by-one-byte", Reason.METADATA_TOO_LARGE),
    "past_ms_max": Sides("oldest", "too_old-by-one-millisecond", Reason.TOO_OLD),
    "ahead_ms_max": Sides("furthest-ahead", "too_far_ahead-by-one-millisecond", Reason.TOO_FAR_AHEAD),
}
OTHERWISE = {
    "version": "names the rules and limits nothing",
    "schema_versions": "test_a_schema_version_is_known_or_the_record_is_refused",
    "forwarded_ms_max": "test_a_forwarded_events_first_stamp_is_believed_up_to_the_limit_and_not_beyond",
}
# The grammar of a quantity is no field of the rules, but is part of every version.
QUANTITIES = {
    "12 digits before the point": [
        Sides("quantity-largest", "bad_quantity-thirteen-digits", Reason.BAD_QUANTITY),
        Sides("quantity-largest-number", "bad_quantity-thirteen-digits-number", Reason.BAD_QUANTITY),
    ],
    "6 digits after it": [
        Sides("quantity-least", "bad_quantity-seven-decimals", Reason.BAD_QUANTITY),
        Sides("quantity-largest-number", "bad_quantity-seven-decimals-number", Reason.BAD_QUANTITY),
    ],
}


def found(document: dict[str, Any], rules: Rules) -> Event | Reason:
    record = record_of(document)
    event = decode(record.value, record.headers, record.ingested_ms, rules)
    return event.reason if isinstance(event, Invalid) else event


def digits(document: dict[str, Any]) -> tuple[int, int]:
    """How many digits the quantity in a record has before and after its point."""
    value = record_of(document).value
    assert value is not None
    match = re.search(rb'"quantity":"?(\d+)(?:\.(\d+))?["},]', value)
    assert match is not None
    return len(match[1]), len(match[2] or b"")


def test_every_constant_of_the_rules_has_both_sides() -> None:
    assert {field.name for field in fields(Rules)} == LIMITS.keys() | OTHERWISE.keys()
    source = Path(__file__).read_text("utf-8")
    for name, where in OTHERWISE.items():
        assert name == "version" or f"def {where}(" in source


@pytest.mark.parametrize("name", LIMITS)
def test_the_last_value_is_taken_and_the_next_one_refused(name: str) -> None:
    at, beyond, reason = LIMITS[name]
    limit = getattr(NEWEST, name)
    tighter, wider = replace(NEWEST, **{name: limit - 1}), replace(NEWEST, **{name: limit + 1})
    assert isinstance(found(VALID[at], NEWEST), Event)
    assert found(VALID[at], tighter) == reason
    assert found(INVALID[beyond], NEWEST) == reason
    assert isinstance(found(INVALID[beyond], wider), Event)


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_quantity_has_as_many_digits_as_it_may_and_one_more_is_refused(name: str) -> None:
    assert QUANTITY_PATTERN == r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?"
    part = list(QUANTITIES).index(name)
    limit = int(name.split()[0])
    for at, beyond, reason in QUANTITIES[name]:
        assert digits(VALID[at])[part] == limit
        assert isinstance(found(VALID[at], NEWEST), Event)
        assert digits(INVALID[beyond])[part] == limit + 1
        assert found(INVALID[beyond], NEWEST) == reason


def test_a_schema_version_is_known_or_the_record_is_refused() -> None:
    known = VALID["all-fields"]
    assert isinstance(found(known, NEWEST), Event)
    assert found(known, replace(NEWEST, schema_versions=frozenset({2}))) == Reason.UNSUPPORTED_SCHEMA_VERSION
    assert found(INVALID["unsupported_schema_version-unknown"], NEWEST) == Reason.UNSUPPORTED_SCHEMA_VERSION


def test_a_forwarded_events_first_stamp_is_believed_up_to_the_limit_and_not_beyond() -> None:
    appended_ms = 1_800_000_000_000
    for earlier_ms, believed in ((NEWEST.forwarded_ms_max, True), (NEWEST.forwarded_ms_max + 1, False)):
        said_ms = appended_ms - earlier_ms
        taken_ms = ingested_ms(2, [(INGESTED_AT_HEADER, b"%d" % said_ms)], appended_ms, NEWEST)
        assert taken_ms == (said_ms if believed else appended_ms)
