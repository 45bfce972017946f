"""The columnar form of reading and deciding makes of every record what the definition makes of it."""

from __future__ import annotations

import json
from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import fast_lane, reading
from metering.columns import TEXT_TYPES
from metering.index import CommittedIndex
from metering.keys import hashes_of, murmurs_of, netstrings
from metering.ranges import Claim, Decided, Pending, decide, suspects
from metering.reading import Readings, read
from metering.recent import Recent
from metering.records import Record, Records, Span, shorter
from meterline_schemas.delta import Figures
from meterline_schemas.event import Event, Invalid
from meterline_schemas.ingest import INGESTED_AT_HEADER
from meterline_schemas.instants import parse_instant
from meterline_schemas.key import dedup_key, key_hash, murmur2, row_hash
from meterline_schemas.rules import RULES
from meterline_schemas.types import Epoch, Offset, Partition
from tests.contract.definition import EPOCH, defined, reading_of
from tests.contract.golden import GoldenRecord, documents, record_of
from tests.contract.test_fuzzed_events import SNIPPETS, damaged, near_events

RULES_1 = RULES[1]
INGESTED_MS = parse_instant("2026-11-21T10:00:01.000Z")
USUAL = (("schema-version", b"1"),)
HEADERS = [(), USUAL, (("schema-version", b"2"),), (*USUAL, ("traceparent", b"x")), USUAL * 2]
GOLDEN = [
    record_of(document)
    for folder in ("valid", "invalid")
    for document in documents(f"usage.events/{folder}").values()
]  # fmt: skip
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _in_columns_however_few() -> Iterator[None]:
    with patch.object(reading, "_FEW_RECORDS", 0):
        yield


def spanned(records: Sequence[Record], partition: int = 0) -> Span:
    first, last = records[0].offset, records[-1].offset
    return Span(Epoch(EPOCH), Partition(partition), Offset(first), Offset(last + 1), Records.of(records))


def numbered(values: Sequence[bytes | None], headers: Sequence[Any] = ()) -> list[Record]:
    return [
        Record(Offset(number), value, None, headers[number % len(headers)] if headers else (), INGESTED_MS)
        for number, value in enumerate(values)
    ]


def golden(offset: int, record: GoldenRecord) -> Record:
    headers = tuple((name, value or b"") for name, value in record.headers)
    return Record(Offset(offset), record.value, None, headers, record.ingested_ms)


def assert_read_as_defined(records: Sequence[Record], partition: int = 0, partitions: int = 1) -> Readings:
    found = read(spanned(records, partition), RULES_1, partitions)
    wanted = [reading_of(record, partition, partitions, RULES_1) for record in records]
    valid = [(at, one) for at, one in enumerate(wanted) if isinstance(one.event, Event)]
    assert list(found.invalid) == [(at, one) for at, one in enumerate(wanted) if isinstance(one.event, Invalid)]
    assert found.columns.record.tolist() == [at for at, _ in valid]
    for row, (_, one) in enumerate(valid):
        assert found.reading(row) == one
        assert found.columns.ingested_ms[row] == one.record.timestamp_ms
    for name, kind in TEXT_TYPES.items():
        column = getattr(found.columns, name)
        assert isinstance(column, list) or column.type == kind
        assert isinstance(column, list) or column.null_count == 0
    return found


def quick(values: Sequence[bytes | None], headers: Any = ()) -> int:
    records = Records.of(numbered(values, [headers]))
    return len(fast_lane.taken(records, 0, 0, 1, RULES_1))


def event(**over: Any) -> bytes:
    fields = {
        "tenantId": "tnt_1",
        "sourceService": "worker",
        "sourceEntityId": "job",
        "usageType": "PHOTO",
        "quantity": "1.5",
        "occurredAt": "2026-11-21T10:00:00.123Z",
        "metadata": {"a": [1, {"b": None}]},
    } | over
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_golden_records_are_read_as_defined() -> None:
    records = [
        Record(
            Offset(number), record.value, None, tuple((name, value or b"") for name, value in record.headers), record.ingested_ms
        )
        for number, record in enumerate(GOLDEN)
    ]
    found = assert_read_as_defined(records)
    assert len(found.columns) > 20
    assert len(found.invalid) > 60


def test_golden_records_are_read_as_defined_by_themselves_and_between_ordinary_ones() -> None:
    for record in GOLDEN:
        alone = golden(1, record)
        ordinary = [Record(Offset(at), event(sourceEntityId=str(at), occurredAt=None), None, USUAL, INGESTED_MS) for at in (0, 2)]
        assert_read_as_defined([alone])
        assert_read_as_defined([ordinary[0], alone, ordinary[1]])


@given(
    st.lists(st.binary(max_size=60) | damaged() | near_events() | st.none(), min_size=1, max_size=12),
    st.lists(
        st.sampled_from([(), USUAL, (("schema-version", b"2"),), (*USUAL, ("traceparent", b"x")), USUAL * 2]),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([1, 1, 2, 3]),
)
@settings(unhurried, max_examples=400)
def test_bytes_that_nobody_wrote_by_hand_are_read_as_defined(
    values: list[bytes | None], headers: list[Any], partitions: int
) -> None:
    assert_read_as_defined(numbered(values, headers), partitions=partitions)


def _fuzzed(random: Random, count: int) -> Iterator[bytes | None]:
    """Ordinary events, most of them with one thing that is not ordinary."""
    texts = ["a", "a" * 256, "a" * 257, "", "caf\u00e9", "\x7f", "a\\b", '"', "{[", "\u0085", "job 1", "\n", "\x00"]
    quantities: list[Any] = [
        "0", "-0", "1", "01", "1.", ".5", "1.123456", "1.1234567", "999999999999.999999", "1000000000000", "-1", "+1",
        "1e3", " 1", "1 ", "", "0.000001", "00", "1,5", "\u0661", 1, 1.5, -1, None, True, [], "1_0", "0x1", "123456789012.5",
    ]  # fmt: skip
    instants: list[Any] = [
        "2026-11-21T10:00:00Z", "2026-11-21T10:00:00.1Z", "2026-11-21T10:00:00.12Z", "2026-11-21T10:00:00.1234Z",
        "2026-11-21T10:00:00.123456789Z", "2026-11-21T10:00:00.Z", "2026-11-21T12:00:00+02:00", "2026-11-21t10:00:00Z",
        "2026-11-21T10:00:00z", "2026-11-21 10:00:00Z", "2026-11-21T10:00Z", "2026-02-30T10:00:00Z", "2026-11-21T24:00:00Z",
        "2026-11-21T10:00:60Z", "0000-01-01T00:00:00Z", "2025-11-21T10:00:00Z", "2025-10-17T10:00:00Z", "2026-11-21T10:05:01Z",
        "2026-11-21T10:05:01.001Z", "2026-11-21T10:05:02Z", "20261121T100000Z", "2026-11-21", "", "2026-W47-6T10:00:00Z", 5, None,
        "2026-11-21T10:00:00.123", "2026-11-21T10:00:00-00:00", "2026-11-21Q10:00:00Z", "2026-11-21T10:00:00.12345678901Z",
    ]  # fmt: skip
    others: list[dict[str, Any]] = [
        {"kind": "usage"}, {"kind": "correction"}, {"kind": "x"}, {"metadata": {}}, {"metadata": []}, {"metadata": None},
        {"metadata": {"a": "x" * 32_760}}, {"metadata": {"a": "x" * 32_770}}, {"corrects": {}}, {"unknown": 1},
        {"metadata": {"a": "caf\u00e9"}}, {"metadata": {"deep": json.loads("[" * 29 + "]" * 29)}},
        {"metadata": {"deep": json.loads("[" * 31 + "]" * 31)}}, {"metadata": {"text": "[" * 40}},
        {"kind": "correction", "corrects": {"sourceService": "s", "sourceEntityId": "e", "usageType": "T"}, "quantity": "-2"},
    ]  # fmt: skip
    for number in range(count):
        fields: dict[str, Any] = {
            "tenantId": f"tnt_{number % 50}",
            "sourceService": "worker",
            "sourceEntityId": f"job_{int(random.random() * count)}",
            "usageType": f"T{number % 5}",
            "quantity": f"{number % 100}.{number % 1000:03d}",
            "occurredAt": f"2026-11-21T10:00:00.{number % 1000:03d}Z",
        }
        kind = random.random()
        if kind < 0.15:
            fields[random.choice(["tenantId", "sourceService", "sourceEntityId", "usageType"])] = random.choice(texts)
        elif kind < 0.35:
            fields["quantity"] = random.choice(quantities)
        elif kind < 0.55:
            fields["occurredAt"] = random.choice(instants)
        elif kind < 0.7:
            fields |= random.choice(others)
        value = json.dumps(fields, ensure_ascii=random.random() < 0.5).encode()
        if kind > 0.97:
            at = int(random.random() * len(value))
            value = value[:at] + random.choice([*SNIPPETS, b"\n", b"\x7f", b" "]) + value[at:]
        yield None if kind > 0.999 else value


def test_twenty_thousand_fuzzed_events_are_read_as_defined_over_several_slices() -> None:
    values = list(_fuzzed(Random(20_261_121), 20_000))
    with patch.object(reading, "SLICE_RECORDS", 3_000):
        found = assert_read_as_defined(numbered(values, [(), USUAL]))
    assert len(found.columns) > 8_000
    assert len(found.invalid) > 3_000


def test_a_forwarded_record_is_read_at_the_time_at_which_the_log_took_it_first() -> None:
    forwarded = (*USUAL, (INGESTED_AT_HEADER, b"%d" % (INGESTED_MS - 1000)))
    records = numbered([event(occurredAt=None), event(occurredAt=None, quantity=1), b"{"] * 2, [forwarded] * 3 + [USUAL] * 3)
    in_epoch_2 = replace(spanned(records), epoch=Epoch(2))
    found = read(in_epoch_2, RULES_1, 1)
    first = [record._replace(timestamp_ms=INGESTED_MS - 1000) for record in records[:3]] + records[3:]
    wanted = [reading_of(record, 0, 1, RULES_1) for record in first]
    assert [found.reading(row) for row in range(4)] == [wanted[at] for at in (0, 1, 3, 4)]
    assert [one for _, one in found.invalid] == [wanted[2], wanted[5]]
    assert found.columns.ingested_ms.tolist() == [INGESTED_MS - 1000] * 2 + [INGESTED_MS] * 2
    assert set(read(spanned(records), RULES_1, 1).columns.ingested_ms.tolist()) == {INGESTED_MS}


def test_few_records_and_many_are_read_alike() -> None:
    records = numbered(list(_fuzzed(Random(7), 300)))
    in_columns = assert_read_as_defined(records)
    with patch.object(reading, "_FEW_RECORDS", 1_000):
        one_by_one = assert_read_as_defined(records)
    assert [in_columns.reading(row) for row in range(len(in_columns.columns))] == [
        one_by_one.reading(row) for row in range(len(one_by_one.columns))
    ]


@pytest.mark.parametrize(
    "value",
    [
        event(),
        event(occurredAt=None, metadata=None),
        event(kind="usage", quantity="999999999999.999999"),
        event(occurredAt="2026-11-21T11:00:00.123456+01:00"),
        event(tenantId="a" * 256),
        event(metadata={"deep": json.loads("[" * 29 + "]" * 29)}),
    ],
)
def test_ordinary_events_are_taken_all_at_once(value: bytes) -> None:
    for headers in ((), USUAL, (*USUAL, ("traceparent", b"x")), (("other", b"x"),)):
        assert quick([value] * 3, headers) == 3


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        event(quantity=1.5),
        event(quantity="-1"),
        event(kind="correction"),
        event(tenantId="caf\u00e9"),
        event(metadata={"a": "\\"}),
        event().replace(b" ", b"\n", 1),
        event(tenantId="\x7f"),
        event(metadata={"deep": json.loads("[" * 32 + "]" * 32)}),
        event(metadata={"text": "[" * 33}),
        event(occurredAt="2026-02-30T10:00:00Z"),
        event(metadata=[]),
    ],
)
def test_what_needs_a_second_look_is_left_to_the_definition_and_does_not_hold_up_its_neighbours(value: bytes | None) -> None:
    assert quick([value]) == 0
    assert quick([event(), value, event()]) == 2


def test_every_day_of_the_calendar_and_none_besides_is_an_instant() -> None:
    texts = [
        f"{year:04d}-{month:02d}-{day:02d}T23:59:59.999Z"
        for year in (1900, 2000, 2023, 2024)
        for month in range(14)
        for day in range(33)
    ]
    at_ms, found = fast_lane._instants(texts, np.zeros(len(texts), dtype=np.int64))
    for text, ms, real in zip(texts, at_ms.tolist(), found.tolist(), strict=True):
        year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
        exists = 1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1]
        assert real == exists, text
        assert not exists or ms == parse_instant(text)


@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"), min_size=0, max_size=300)] * 3), min_size=1, max_size=20))
@settings(unhurried, max_examples=100)
def test_keys_and_their_hashes_are_those_of_the_definition(ids: list[tuple[str, str, str]]) -> None:
    keys = netstrings(*(pa.array([parts[at] for parts in ids], pa.string()) for at in range(3)))
    wanted = [dedup_key(*parts) for parts in ids]
    assert keys.to_pylist() == wanted
    assert murmurs_of(keys).tolist() == [murmur2(key) for key in wanted]
    assert hashes_of(keys).tolist() == [key_hash(key) for key in wanted]
    assert murmurs_of(keys[1:]).tolist() == [murmur2(key) for key in wanted[1:]]


# -- deciding ------------------------------------------------------------------------------------------------------


def _log(random: Random, count: int) -> list[Record]:
    """Few keys, so that records meet: alike, in other bytes, in conflict; the largest quantities among them."""
    values: list[bytes | None] = []
    for _ in range(count):
        entity = f"e{int(random.random() * count * 0.6)}"
        kind = random.random()
        over: dict[str, Any] = {"sourceEntityId": entity, "quantity": "999999999999.999999", "usageType": f"T{entity[-1]}"}
        if kind < 0.1:
            over["quantity"] = "7"
        elif kind < 0.2:
            over["metadata"] = {"again": True}
        elif kind < 0.25:
            over["tenantId"] = "tnt_2"
        elif kind < 0.3:
            over |= {
                "quantity": "-3.000001",
                "kind": "correction",
                "corrects": {"sourceService": "s", "sourceEntityId": "e" if kind < 0.275 else "f", "usageType": "T"},
            }
        elif kind < 0.35:
            over["occurredAt"] = f"2026-11-{int(random.random() * 20) + 1:02d}T00:00:00Z"
        values.append(b"{" if kind > 0.97 else event(**over))
    return numbered(values)


def _shown(decided: Decided) -> list[tuple[int, str, Any, str, int | None]]:
    return [
        (one.reading.record.offset, one.verdict, one.reason, one.detail, one.admitted.offset if one.admitted else None)
        for one in decided.rejects
    ]


@pytest.mark.parametrize("at_hand_max", [0, 20, 1_000], ids=["nothing at hand", "few rows at hand", "all rows at hand"])
@pytest.mark.parametrize("hashes", [1 << 64, 150, 5], ids=["64-bit hashes", "some collide", "all collide"])
@pytest.mark.parametrize("seed", range(6))
def test_verdicts_rejects_lines_and_figures_are_the_definitions_however_the_log_is_cut(
    seed: int, hashes: int, at_hand_max: int
) -> None:
    random = Random(seed)
    records = _log(random, 400)
    weak = hashes < 1 << 64
    hashed = (lambda key: key_hash(key) % hashes + 1) if weak else key_hash
    # Bytes that collide show whether what is compared besides them is.
    bytes_hashed = (lambda value: row_hash(value) % 2 + 1) if weak else row_hash
    recent, repeats = Recent(at_hand_max), 0
    with (
        patch("metering.keys.key_hash", hashed),
        patch("metering.reading.key_hash", hashed),
        patch("tests.contract.definition.key_hash", hashed),
        patch("metering.fast_lane.row_hash", bytes_hashed),
        patch("metering.reading.row_hash", bytes_hashed),
        patch("tests.contract.definition.row_hash", bytes_hashed),
    ):
        wanted = defined(records, 0, 1, RULES_1)
        index, pending, waiting = CommittedIndex(), Pending(), []
        stored: dict[bytes, Claim] = {}
        figures, at, rejects, lines, admitted = Figures(), 0, [], [], []
        while at < len(records):
            end = min(len(records), at + 1 + int(random.random() * 120))
            readings = read(spanned(records[at:end]), RULES_1, 1)
            asked = suspects(readings, index, pending, recent.of(1, 0))
            repeats += len(asked.repeats)
            confirmed = {key: claim for key, claim in stored.items() if claim.key_hash in asked.hashes}
            if random.random() < 0.3:  # it did not fit a delta
                end = at + (end - at + 1) // 2
                readings = readings.within(shorter(readings.span, end - at))
            decided = decide(readings, RULES_1, pending, confirmed, figures, asked.repeats)
            pending.add(decided)
            waiting.append(decided)
            rejects += _shown(decided)
            lines.append(decided.delta.lines)
            admitted += [decided.admitted.event(row) for row in range(len(decided.admitted))]
            assert sum(line.quantity for line in decided.delta.lines) == sum(decided.admitted.micros.tolist())
            assert decided.ranked.tolist() == sorted(decided.admitted.key_hash.tolist())
            figures, at = decided.figures, end
            if random.random() < 0.6:
                oldest = waiting.pop(0)
                stored |= oldest.claims(oldest.ranked)
                pending.acknowledge(oldest, index)
                recent.add(oldest)
    assert (repeats > 0) == (at_hand_max == 1_000) or at_hand_max == 20 or hashes == 5
    assert rejects == wanted.rejects
    assert figures == wanted.figures
    assert admitted == [one.event for one in wanted.admitted]
    total: dict[tuple[str, str, str], tuple[int, int]] = {}
    for line in (line for some in lines for line in some):
        quantity, events = total.get((line.tenant_id, line.usage_type, line.day), (0, 0))
        total[line.tenant_id, line.usage_type, line.day] = quantity + line.quantity, events + line.events
    assert total == {(line.tenant_id, line.usage_type, line.day): (line.quantity, line.events) for line in wanted.lines()}
    assert max(quantity for quantity, _ in total.values()) > 2**63
