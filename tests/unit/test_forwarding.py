"""A late record goes on to where its key leads, with the time at which the log took it first, which nobody can misuse."""

from __future__ import annotations

import json

import pytest

from consumers.forwarding import forward
from meterline_schemas.ingest import FORWARDED_FROM_HEADER, INGESTED_AT_HEADER, ingested_ms
from meterline_schemas.key import dedup_key, partition_of
from meterline_schemas.rules import RULES

NOW = 1_790_000_000_000
RULES_1 = RULES[1]
MOST = RULES_1.forwarded_ms_max
EVENT = {"tenantId": "t", "sourceService": "s", "sourceEntityId": "e-7", "usageType": "PHOTO", "quantity": "1"}
KEY = dedup_key("s", "e-7", "PHOTO")


def said(at_ms: object) -> tuple[tuple[str, bytes], ...]:
    return (("schema-version", b"1"), (INGESTED_AT_HEADER, str(at_ms).encode()))


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        (NOW, NOW),
        (NOW - 1, NOW - 1),
        (NOW - MOST, NOW - MOST),
        (NOW - MOST - 1, NOW),
        (NOW + 1, NOW),
        (0, NOW),
        ("", NOW),
        ("-5", NOW),
        ("1.79e12", NOW),
        (f"{NOW} ", NOW),
        ("\u0661", NOW),
        ("9" * 400, NOW),
    ],
)
def test_a_forwarded_time_moves_an_event_back_and_only_so_far(header: object, taken: int) -> None:
    assert ingested_ms(2, said(header), NOW, RULES_1) == taken


def test_a_time_that_is_said_twice_or_in_epoch_1_is_not_looked_at() -> None:
    assert ingested_ms(2, said(NOW - 1) + said(NOW - 1), NOW, RULES_1) == NOW
    assert ingested_ms(1, said(NOW - 1), NOW, RULES_1) == NOW
    assert ingested_ms(2, ((INGESTED_AT_HEADER, None),), NOW, RULES_1) == NOW
    assert ingested_ms(2, (), NOW, RULES_1) == NOW


@pytest.mark.parametrize("partitions", [1, 3, 5, 64])
def test_a_late_event_goes_to_the_partition_that_its_key_leads_to_in_the_new_topic(partitions: int) -> None:
    value = json.dumps(EVENT).encode()
    headers = (("schema-version", b"1"), ("traceparent", b"00-1"))
    found = forward(1, 0, 17, b"whatever", value, headers, NOW, RULES_1, partitions)
    assert found.partition == partition_of(KEY, partitions)
    assert (found.key, found.value) == (b"whatever", value)
    assert found.headers == (*headers, (INGESTED_AT_HEADER, b"%d" % NOW), (FORWARDED_FROM_HEADER, b"1/0/17"))


def test_a_record_that_is_forwarded_twice_keeps_its_first_time() -> None:
    value = json.dumps(EVENT).encode()
    once = forward(1, 0, 17, None, value, (), NOW, RULES_1, 3)
    twice = forward(2, once.partition, 4, None, value, once.headers, NOW + 5_000, RULES_1, 5)
    assert dict(twice.headers) == {INGESTED_AT_HEADER: b"%d" % NOW, FORWARDED_FROM_HEADER: f"2/{once.partition}/4".encode()}
    assert ingested_ms(3, twice.headers, NOW + 60_000, RULES_1) == NOW


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff\xfe"])
def test_a_record_that_holds_no_event_is_forwarded_all_the_same(value: bytes | None) -> None:
    found = forward(1, 1, 8, b"k", value, (("schema-version", b"9"),), NOW, RULES_1, 5)
    assert (found.partition, found.key, found.value) == (3, b"k", value)
