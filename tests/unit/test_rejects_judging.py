"""Which record is sent in place of a reject."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meterline_schemas.event import Event, Invalid, decode
from meterline_schemas.instants import parse_instant
from meterline_schemas.key import dedup_key, row_hash
from meterline_schemas.rules import RULES
from store.positions import Position
from store.rejects import RawReject, Reject
from store.replaying import REPLAY_HEADER, NewRecord, ReplayRefused, judge

INGESTED_MS = parse_instant("2026-11-20T23:59:00Z")
NOW_MS = parse_instant("2026-11-21T10:00:00Z")
FIELDS = {
    "tenantId": "tnt_1",
    "sourceService": "worker",
    "sourceEntityId": "job",
    "usageType": "PHOTO",
    "quantity": "1.50",
    "occurredAt": "2026-11-20T10:00:00Z",
    "metadata": {"n": 1.50},
}


def body(**over: object) -> bytes:
    return json.dumps({name: value for name, value in (FIELDS | over).items() if value is not None}).encode()


def reject(
    value: bytes, verdict: str = "invalid", reason: str = "misrouted", headers: tuple[tuple[str, bytes], ...] = ()
) -> RawReject:
    event = decode(value, None, INGESTED_MS, RULES[1])
    admitted = Position(1, 0, 3) if verdict != "invalid" else None
    letter = Reject(
        Position(1, 0, 17), verdict, reason, "", event.tenant_id, event.source_service, event.source_entity_id, event.usage_type,
        INGESTED_MS, len(value), admitted, 1,
    )  # fmt: skip
    return RawReject(letter, b"key", value, headers, row_hash(value))


def judged(original: RawReject, **how: Any) -> NewRecord:
    return judge(original, RULES[1], NOW_MS, **how)


def test_a_misrouted_record_is_sent_to_the_letter() -> None:
    original = reject(body(), headers=(("schema-version", b"1"), ("traceparent", b"00")))
    record = judged(original)
    assert record.value == original.value
    assert record.key == dedup_key("worker", "job", "PHOTO")
    assert record.headers == (*original.headers, (REPLAY_HEADER, b"1/0/17"))


def test_the_time_at_which_the_log_took_the_original_stands_for_an_absent_one() -> None:
    record = judged(reject(body(occurredAt=None)))
    assert record.event.occurred_at_ms == INGESTED_MS
    event = decode(record.value, record.headers, NOW_MS, RULES[1])
    assert isinstance(event, Event)
    assert (event.tenant_id, event.quantity) == ("tnt_1", 1_500_000)


def test_a_replay_of_a_replay_names_the_reject_that_it_is_of() -> None:
    record = judged(reject(body(), headers=((REPLAY_HEADER, b"1/0/2"),)))
    assert record.headers == ((REPLAY_HEADER, b"1/0/17"),)


@pytest.mark.parametrize("verdict", ["conflict", "duplicate"])
def test_a_taken_key_is_sent_only_under_a_new_id(verdict: str) -> None:
    original = reject(body(), verdict, "other_quantity")
    with pytest.raises(ReplayRefused, match="--as-entity NEWID"):
        judged(original)
    with pytest.raises(ReplayRefused, match="--as-entity NEWID"):
        judged(original, body=body(quantity="2"))
    with pytest.raises(ReplayRefused, match="needs a new one"):
        judged(original, as_entity="job")
    record = judged(original, as_entity="job/2 \u00fc")
    assert record.key == dedup_key("worker", "job/2 \u00fc", "PHOTO")
    # Everything else is as it was, the text of the metadata too.
    assert b'{"n": 1.5}' in record.value
    assert json.loads(record.value) == json.loads(original.value) | {"sourceEntityId": "job/2 \u00fc"}


@pytest.mark.parametrize("entity", ["", "x" * 257, "a\nb", "\udcff"])
def test_a_new_id_that_no_event_may_have_is_refused(entity: str) -> None:
    with pytest.raises(ReplayRefused):
        judged(reject(body(), "conflict", "other_tenant"), as_entity=entity)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"{", "malformed_json"),
        (body(quantity="-1"), "negative_usage"),
        (body(occurredAt="2025-01-01T00:00:00Z"), "too_old"),
        (body(extra=1), "unknown_field"),
    ],
)
def test_a_record_that_would_be_invalid_again_is_refused_with_the_reason(value: bytes, reason: str) -> None:
    assert isinstance(decode(value, None, NOW_MS, RULES[1]), Invalid)
    with pytest.raises(ReplayRefused, match=rf"would be invalid again \({reason}: "):
        judged(reject(value, reason=reason))
    with pytest.raises(ReplayRefused, match=rf"would be invalid again \({reason}: "):
        judged(reject(body()), body=value)
    assert judged(reject(value, reason=reason), body=body()).value == body()


def test_an_id_that_was_missing_or_wrong_may_be_given() -> None:
    for value in (body(sourceEntityId=None), body(sourceEntityId="a\nb")):
        with pytest.raises(ReplayRefused):
            judged(reject(value, reason="bad_id"))
        assert judged(reject(value, reason="bad_id"), as_entity="right").event.source_entity_id == "right"
    with pytest.raises(ReplayRefused, match="missing_field"):
        judged(reject(body(tenantId=None), reason="missing_field"), as_entity="right")


def test_a_header_of_an_unknown_version_keeps_a_record_out_until_its_body_is_vouched_for() -> None:
    original = reject(body(), reason="unsupported_schema_version", headers=(("schema-version", b"9"), ("x", b"y")))
    with pytest.raises(ReplayRefused, match="unsupported_schema_version"):
        judged(original)
    assert judged(original, body=body()).headers == (("x", b"y"), (REPLAY_HEADER, b"1/0/17"))
