"""The parts of the codec that golden examples do not reach: hashes, figures, commit notes, making events."""

from __future__ import annotations

import importlib
import pickle
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterline_schemas.delta import (
    CommitNote,
    Delta,
    DeltaLine,
    Figures,
    decode_delta,
    encode_commit,
    encode_delta,
    parse_commit,
)
from meterline_schemas.draft import EventDraft, InvalidEvent, draft_from_json, encode_event
from meterline_schemas.instants import format_instant, parse_instant, utc_day
from meterline_schemas.key import key_hash, murmur2, parse_key, partition_of, row_hash
from meterline_schemas.nesting import nesting_of
from meterline_schemas.quantity import format_quantity, parse_quantity, parse_sum
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import NEWEST_RULES, RULES
from meterline_schemas.types import Epoch, Micros, Offset, Partition, TenantId, UsageType

# Other work on the machine must not fail a test.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


NOW_MS = parse_instant("2026-11-21T10:00:01Z")


@pytest.mark.parametrize(
    ("data", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_what_the_java_client_gives(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed % (1 << 32)


def test_murmur2_agrees_with_another_client_at_every_length_and_tail() -> None:
    theirs = importlib.import_module("aiokafka.partitioner").murmur2
    source = random.Random(7)
    for length in range(260):
        data = source.randbytes(length)
        assert murmur2(data) == theirs(data) % (1 << 32)


def test_a_partition_is_taken_from_31_bits() -> None:
    assert partition_of(b"21", 4) == (-973932308 & 0x7FFFFFFF) % 4
    with pytest.raises(ValueError, match="at least one partition"):
        partition_of(b"21", 0)


def test_hashes_are_unsigned_xxh3_64() -> None:
    assert key_hash(b"") == row_hash(b"") == 0x2D06800538D394C2


@pytest.mark.parametrize(
    "key", [b"", b"1:a,1:b,", b"1:a,1:b,1:c", b"1:a,1:b,1:c,x", b"01:a,1:b,1:c,", b"-1:a,1:b,1:c,", b"2:a,1:b,1:c,"]
)
def test_what_is_not_three_netstrings_is_no_key(key: bytes) -> None:
    with pytest.raises(ValueError, match="not a dedup key"):
        parse_key(key)


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0"), (1_500_000, "1.5"), (-1, "-0.000001"), (10_000_000, "10"), (-2_000_000, "-2"), (10**24, str(10**18))],
)
def test_a_quantity_is_written_in_its_shortest_form(micros: int, text: str) -> None:
    assert format_quantity(micros) == text
    assert parse_sum(text) == micros


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1e3", "exponent"),
        ("0.1234567", "6 decimals"),
        ("1234567890123", "12 digits"),
        ("NaN", "not a decimal"),
        ("", "not a decimal"),
    ],
)
def test_a_refused_quantity_says_why(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_quantity(text)


def test_a_day_is_the_utc_day_before_1970_too() -> None:
    assert utc_day(-1) == "1969-12-31"
    assert utc_day(parse_instant("2026-11-20T23:30:00-01:00")) == "2026-11-21"
    assert parse_instant("1969-12-31T23:59:59.9999Z") == -1


@pytest.mark.parametrize(
    ("value", "depth"),
    [(b"", 0), (b"{}", 1), (b"]]]][[", 2), (b'"[[[', 0), (b'"\\"[[["[[', 2), (b'"\\\\"[', 1), (b"[{[}]]", 3), (b'"abc\\', 0)],
)
def test_nesting_counts_open_brackets_outside_of_strings(value: bytes, depth: int) -> None:
    assert nesting_of(value) == depth


def test_the_newest_rules_are_there_and_rules_version_1_never_changes() -> None:
    assert max(RULES) == NEWEST_RULES
    first = RULES[1]
    assert (first.event_bytes_max, first.nesting_max, first.id_bytes_max, first.metadata_bytes_max) == (65536, 32, 256, 32768)
    assert (first.past_ms_max, first.ahead_ms_max, first.schema_versions) == (34_560_000_000, 300_000, frozenset({1}))


figures = st.builds(Figures, *[st.integers(0, 1 << 40)] * 5, st.integers(0, (1 << 64) - 1))


@given(figures, figures)
@unhurried
def test_figures_added_and_taken_away_are_the_same_again(earlier: Figures, added: Figures) -> None:
    later = earlier.plus(added)
    assert later.minus(earlier) == added
    assert later.offsets == earlier.offsets + added.offsets
    assert 0 <= later.hash_sum < 1 << 64


def test_figures_never_go_back() -> None:
    with pytest.raises(ValueError, match="went back"):
        Figures(admitted=1).minus(Figures(admitted=2))


@given(st.integers(1, 65_535), st.integers(1, 65_535), figures)
@unhurried
def test_a_commit_note_is_read_back_as_written(epoch: int, rules: int, at: Figures) -> None:
    offset = at.offsets + 5
    note = parse_commit(encode_commit(epoch, offset, rules, at))
    assert note == CommitNote(Epoch(epoch), Offset(offset), rules, at)
    assert note.matches(epoch, offset)
    assert not note.matches(epoch, offset + 1)
    assert not note.matches(epoch + 1, offset)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "v2;1;10;1;1;0;0;0;0;5",
        "v1;1;10;1;1;0;0;0;0",
        "v1;1;10;1;1;0;0;0;0;5;",
        "v1;1;10;1;01;0;0;0;0;5",
        "v1;1;10;1;-1;0;0;0;0;5",
        "v1;1;10;1;1 ;0;0;0;0;5",
        "v1;0;10;1;1;0;0;0;0;5",
        "v1;1;10;1;11;0;0;0;0;5",
        "v1;1;10;1;1;0;0;0;0;18446744073709551616",
        "v1;1;10;1;\u0661;0;0;0;0;5",
    ],
)
def test_any_other_commit_metadata_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="."):  # noqa: RUF043 - any message will do
        parse_commit(text)


def test_a_commit_note_has_the_form_the_contract_names() -> None:
    assert encode_commit(1, 20, 1, Figures(2, 3, 4, 5, 6, 7)) == "v1;1;20;1;2;3;4;5;6;7"


def test_a_wrong_delta_is_refused_where_it_is_made() -> None:
    line = DeltaLine(TenantId("a"), UsageType("T"), "2026-11-21", Micros(1), 1)
    whole = Delta(Epoch(1), Partition(0), Offset(0), Offset(2), 1, (line,), Figures(admitted=1, void=1))
    assert decode_delta(encode_delta(whole)) == whole
    with pytest.raises(ValueError, match="sorted"):
        encode_delta(Delta(Epoch(1), Partition(0), Offset(0), Offset(2), 1, (line, line), Figures(admitted=2)))
    for named in (line._replace(tenant_id=TenantId("a\x1fb")), line._replace(usage_type=UsageType("T\x00"))):
        with pytest.raises(ValueError, match="control character"):
            encode_delta(replace(whole, lines=(named,)))


@given(st.binary(max_size=120))
@unhurried
def test_no_bytes_make_decoding_a_delta_raise_anything_but_value_error(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a delta"):
        decode_delta(value)


def _draft(**over: Any) -> EventDraft:
    fields: dict[str, Any] = {
        "tenant_id": "tnt_123",
        "source_service": "analysis-worker",
        "source_entity_id": "job_abc_123",
        "usage_type": "PHOTO_ANALYSIS_DEEP",
        "quantity": "1.5",
    }
    return EventDraft(**(fields | over))


@pytest.mark.parametrize(
    ("quantity", "micros"),
    [("1.5", 1_500_000), (2, 2_000_000), (Decimal("1.50"), 1_500_000), (Decimal("1E+3"), 10**9), (Decimal("0.0000010"), 1),
     (Decimal("-0"), 0), (Decimal("999999999999.999999"), 10**18 - 1)],
)  # fmt: skip
def test_an_exact_quantity_of_any_type_is_kept_exactly(quantity: str | int | Decimal, micros: int) -> None:
    assert encode_event(_draft(quantity=quantity), NOW_MS).event.quantity == micros


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"quantity": 1.5}, Reason.BAD_QUANTITY),
        ({"quantity": True}, Reason.BAD_QUANTITY),
        ({"quantity": 10**12}, Reason.BAD_QUANTITY),
        ({"quantity": Decimal("NaN")}, Reason.BAD_QUANTITY),
        ({"quantity": Decimal("-Infinity")}, Reason.BAD_QUANTITY),
        ({"quantity": Decimal("1E-7")}, Reason.BAD_QUANTITY),
        ({"quantity": Decimal("1E+999999")}, Reason.BAD_QUANTITY),
        ({"quantity": Decimal("1E-999999")}, Reason.BAD_QUANTITY),
        ({"quantity": -1}, Reason.NEGATIVE_USAGE),
        ({"tenant_id": ""}, Reason.BAD_ID),
        ({"tenant_id": None}, Reason.BAD_TYPE),
        ({"tenant_id": object()}, Reason.BAD_TYPE),
        ({"tenant_id": "\ud800"}, Reason.NOT_UTF8),
        ({"occurred_at": datetime(2026, 11, 21)}, Reason.BAD_OCCURRED_AT),  # noqa: DTZ001 - naive is the point
        ({"occurred_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))}, Reason.BAD_OCCURRED_AT),
        ({"occurred_at": ""}, Reason.BAD_OCCURRED_AT),
        ({"occurred_at": datetime(2020, 1, 1, tzinfo=UTC)}, Reason.TOO_OLD),
        ({"kind": "correction"}, Reason.BAD_CORRECTS),
        ({"kind": "correction", "corrects": ("a", "b")}, Reason.BAD_CORRECTS),
        ({"corrects": ("a", "b", "c")}, Reason.BAD_CORRECTS),
        ({"kind": "refund"}, Reason.BAD_KIND),
        ({"metadata": {"n": float("nan")}}, Reason.BAD_METADATA),
        ({"metadata": {"n": object()}}, Reason.BAD_METADATA),
        ({"metadata": {"n": "\ud800"}}, Reason.NOT_UTF8),
        ({"metadata": {"n": "x" * 40_000}}, Reason.METADATA_TOO_LARGE),
        ({"metadata": b"[]"}, Reason.BAD_METADATA),
        ({"metadata": b'{},"kind":"correction"'}, Reason.MALFORMED_JSON),
        ({"metadata": b"["}, Reason.MALFORMED_JSON),
        ({"metadata": b"\xff"}, Reason.MALFORMED_JSON),
        ({"metadata": b'{"a":' * 40 + b"1" + b"}" * 40}, Reason.TOO_DEEP),
    ],
)
def test_a_draft_that_breaks_a_rule_is_refused_with_its_reason(over: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(InvalidEvent) as refused:
        encode_event(_draft(**over), NOW_MS)
    assert refused.value.reason is reason
    assert reason.remedy in str(refused.value)
    assert pickle.loads(pickle.dumps(refused.value)).reason is reason  # noqa: S301 - our own bytes


def test_metadata_that_nests_without_end_is_refused() -> None:
    nested: dict[str, Any] = {}
    nested["n"] = nested
    with pytest.raises(InvalidEvent) as refused:
        encode_event(_draft(metadata=nested), NOW_MS)
    assert refused.value.reason is Reason.BAD_METADATA


def test_an_aware_datetime_is_written_in_utc_floored_to_milliseconds() -> None:
    at = datetime(2026, 11, 21, 11, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=1)))
    assert b'"occurredAt":"2026-11-21T10:00:00.123Z"' in encode_event(_draft(occurred_at=at), NOW_MS).value


def test_metadata_given_as_text_is_kept_to_the_letter() -> None:
    text = b'{ "a": 1.50, "a": "\\u00e9" }'
    assert encode_event(_draft(metadata=text), NOW_MS).event.metadata == text


def test_a_draft_read_from_json_makes_the_same_event() -> None:
    drafts = [
        _draft(),
        _draft(quantity="2.50", occurred_at="2026-11-21T11:00:00.5+01:00", metadata=b'{ "a": 1 }'),
        _draft(source_entity_id="fix", quantity="-1", kind="correction", corrects=("s", "e:1,", "T")),
    ]
    for draft in drafts:
        made = encode_event(draft, NOW_MS)
        again = draft_from_json(made.value, NOW_MS)
        assert encode_event(again, NOW_MS).event == made.event
        assert (again.occurred_at is None) == (draft.occurred_at is None)
        assert again.occurred_at in (None, format_instant(made.event.occurred_at_ms))
    with pytest.raises(InvalidEvent, match="not_an_object"):
        draft_from_json(b"[]", NOW_MS)
