"""Every golden record of `usage.events` reads as it says, for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from meterline_schemas.event import Claim, Event, Invalid, claim_of, conflict_reason, decode
from meterline_schemas.instants import format_instant
from meterline_schemas.json_schema import schema_text, usage_event_schema
from meterline_schemas.key import dedup_key, key_hash, murmur2, parse_key, partition_of, row_hash
from meterline_schemas.quantity import format_quantity
from meterline_schemas.reasons import INVALID_REASONS, Reason
from meterline_schemas.rules import RULES
from tests.contract.golden import EXAMPLES, documents, record_of

VALID = documents("usage.events/valid")
INVALID = documents("usage.events/invalid")
VERDICTS = documents("usage.events/verdicts")
KEYS: list[dict[str, Any]] = json.loads((EXAMPLES / "keys.json").read_text())["keys"]

# What a schema over parsed values cannot see: bytes, spelling, the calendar, the clock.
BEYOND_JSON_SCHEMA = {
    Reason.UNSUPPORTED_SCHEMA_VERSION,
    Reason.EMPTY,
    Reason.TOO_LARGE,
    Reason.NOT_UTF8,
    Reason.TOO_DEEP,
    Reason.MALFORMED_JSON,
    Reason.METADATA_TOO_LARGE,
    Reason.TOO_OLD,
    Reason.TOO_FAR_AHEAD,
}
BEYOND_JSON_SCHEMA_BY_NAME = {
    "bad_id-257-bytes",
    "bad_occurred_at-february-29",
    "bad_occurred_at-february-30",
    "bad_occurred_at-year-0",
    "bad_quantity-exponent-number",
    "bad_quantity-seven-decimals-number",
    "bad_quantity-thirteen-digits-number",
}


def _shown(event: Event) -> dict[str, str]:
    return {
        "tenantId": event.tenant_id,
        "sourceService": event.source_service,
        "sourceEntityId": event.source_entity_id,
        "usageType": event.usage_type,
        "quantity": format_quantity(event.quantity),
        "kind": event.kind,
        "corrects": event.corrects.decode(),
        "occurredAt": format_instant(event.occurred_at_ms),
        "metadata": event.metadata.decode(),
        "key": event.key.decode(),
    }


@pytest.mark.parametrize("name", VALID)
def test_a_valid_record_is_the_event_it_says(name: str) -> None:
    record = record_of(VALID[name])
    event = decode(record.value, record.headers, record.ingested_ms, RULES[1])
    assert isinstance(event, Event), event
    assert _shown(event) == VALID[name]["event"]


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_record_has_the_reason_it_says(name: str) -> None:
    record = record_of(INVALID[name])
    found = decode(record.value, record.headers, record.ingested_ms, RULES[1])
    assert isinstance(found, Invalid), found
    assert found.reason == INVALID[name]["reason"]
    assert name.startswith(f"{found.reason.value}-")
    assert found.detail
    assert found.detail.isascii()
    assert INVALID[name]["detailHolds"] in found.detail
    names = (found.tenant_id, found.source_service, found.source_entity_id, found.usage_type)
    assert names == tuple(INVALID[name]["names"].values())


@pytest.mark.parametrize("name", VERDICTS)
def test_a_scenario_has_the_verdicts_it_says(name: str) -> None:
    """Judged by the rule as it is told: the first of a key is admitted, later ones are compared with it alone."""
    admitted: dict[tuple[int, bytes], tuple[Claim, int]] = {}
    partitions = VERDICTS[name]["partitions"]
    for number, document in enumerate(VERDICTS[name]["records"]):
        record = record_of(document)
        assert record.value is not None
        event = decode(record.value, record.headers, record.ingested_ms, RULES[1])
        verdict, reason = "invalid", None
        if isinstance(event, Invalid):
            reason = event.reason
        elif partition_of(event.key, partitions) != document["partition"]:
            reason = Reason.MISROUTED
        else:
            place = document["partition"], event.key
            claim = claim_of(event), row_hash(record.value)
            if place not in admitted:
                admitted[place] = claim
                verdict = "admitted"
            else:
                first, first_hash = admitted[place]
                reason = conflict_reason(first, claim[0])
                verdict = "duplicate" if reason is None else "conflict"
                if reason is None and first_hash != claim[1]:
                    reason = Reason.DIFFERING_DUPLICATE
        assert (number, verdict, reason) == (number, document["verdict"], document["reason"])


def test_each_reason_has_a_golden_example_and_a_remedy() -> None:
    in_scenarios = {document["reason"] for scenario in VERDICTS.values() for document in scenario["records"]}
    shown = {document["reason"] for document in INVALID.values()} | in_scenarios - {None}
    assert shown == {reason.value for reason in Reason}
    assert {document["verdict"] for scenario in VERDICTS.values() for document in scenario["records"]} == {
        "admitted",
        "duplicate",
        "conflict",
        "invalid",
    }
    assert {Reason(document["reason"]) for document in INVALID.values()} | {Reason.MISROUTED} == INVALID_REASONS
    assert all(reason.remedy.endswith(".") for reason in Reason)


def test_the_committed_json_schema_is_the_generated_one() -> None:
    Draft202012Validator.check_schema(usage_event_schema())
    assert (EXAMPLES.parent / "usage_event.schema.json").read_text() == schema_text(), (
        "write it anew: python -m meterline_schemas.json_schema > schemas/usage_event.schema.json"
    )


@pytest.mark.parametrize("name", VALID)
def test_a_valid_record_satisfies_the_json_schema(name: str) -> None:
    value = record_of(VALID[name]).value
    assert value is not None
    Draft202012Validator(usage_event_schema()).validate(json.loads(value))


@pytest.mark.parametrize(
    "name",
    [n for n, d in INVALID.items() if d["reason"] not in BEYOND_JSON_SCHEMA and n not in BEYOND_JSON_SCHEMA_BY_NAME],
)
def test_a_structurally_invalid_record_fails_the_json_schema(name: str) -> None:
    value = record_of(INVALID[name]).value
    assert value is not None
    assert not Draft202012Validator(usage_event_schema()).is_valid(json.loads(value))


@pytest.mark.parametrize("vector", KEYS, ids=lambda vector: vector["key"][:40])
def test_a_key_has_the_bytes_hashes_and_partitions_it_says(vector: dict[str, Any]) -> None:
    names = vector["sourceService"], vector["sourceEntityId"], vector["usageType"]
    key = dedup_key(*names)
    assert key == vector["key"].encode()
    assert len(key) == vector["keyBytes"]
    assert parse_key(key) == names
    assert murmur2(key) == vector["murmur2"]
    assert str(key_hash(key)) == vector["xxh3_64"]
    assert {n: partition_of(key, int(n)) for n in vector["partitionOf"]} == vector["partitionOf"]
