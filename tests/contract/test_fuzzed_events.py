"""The codec on bytes that nobody wrote by hand: it never raises, and its quick way agrees with its careful one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from meterline_schemas import event as codec
from meterline_schemas.draft import EventDraft, InvalidEvent, encode_event
from meterline_schemas.event import Event, Invalid, decode
from meterline_schemas.instants import format_instant, parse_instant
from meterline_schemas.key import dedup_key, parse_key
from meterline_schemas.nesting import nesting_of
from meterline_schemas.quantity import format_quantity, parse_quantity, parse_sum
from meterline_schemas.rules import RULES
from tests.contract.golden import documents, record_of

# Other work on the machine must not fail a test.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


INGESTED_MS = parse_instant("2026-11-21T10:00:01.000Z")
RULES_1 = RULES[1]
GOLDEN = [record_of(d) for folder in ("valid", "invalid") for d in documents(f"usage.events/{folder}").values()]
SEEDS = [record.value for record in GOLDEN if record.value is not None and len(record.value) < 2_000]
SNIPPETS = [
    b'"', b"\\", b"\\u", b"\\ud800", b"{", b"}", b"[", b"]", b":", b",", b"null", b"1e9", b"-", b"0", b".", b"\x00", b"\xff",
    b"\xed\xa0\x80", b"\xc2\x85", b'"quantity":"1"', b'"kind":"correction"', b'"corrects":{}', b'"metadata":{}', b" ",
]  # fmt: skip

ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=60)
micros = st.integers(0, 10**18 - 1)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A golden record with a few cuts, repeats and insertions."""
    value = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value)))
        until = min(len(value), at + draw(st.integers(0, 20)))
        value = draw(
            st.sampled_from(
                [
                    value[:at] + value[until:],
                    value[:until] + value[at:],
                    value[:at] + draw(st.sampled_from(SNIPPETS)) + value[at:],
                    value[:at] + draw(st.binary(max_size=3)) + value[until:],
                ]
            )
        )
    return value


@st.composite
def near_events(draw: st.DrawFn) -> bytes:
    """Objects whose names are an event's, in any order and repeated, with values of every type."""
    values: dict[str, st.SearchStrategy[str]] = {
        "quantity": st.sampled_from(['"1.5"', "1.5", "-0", '"-1"', "1e3", '"01"', "[]", "null", '"\\u0031"']),
        "occurredAt": st.sampled_from(['"2026-11-21T10:00:00Z"', '"2026-11-21T10:00:00"', "1", "null"]),
        "kind": st.sampled_from(['"usage"', '"correction"', '"x"', "true", "null"]),
        "corrects": st.sampled_from(
            [
                '{"sourceService":"s","sourceEntityId":"e","usageType":"T"}',
                '{"sourceService":1,"sourceService":"s"}',
                "{}",
                "null",
                "1",
            ]
        ),
        "metadata": st.sampled_from(["{}", '{"a":[1,{"b":null}]}', "[]", "null", '"x"']),
    }
    plain = st.sampled_from(['"a"', '"a"', '"b"', '""', '"\\u0000"', '"\\ud83d\\ude00"', "1", "null", "{}"])
    names = [*codec.REQUIRED_FIELDS, *draw(st.lists(st.sampled_from([*codec.FIELDS, "unknown"]), max_size=6))]
    members = [f'"{name}":{draw(values.get(name, plain))}' for name in draw(st.permutations(names))]
    return ("{" + ",".join(members) + "}").encode()


def _careful(value: bytes) -> Event | Invalid:
    unreadable = codec._unreadable(value, RULES_1)
    return unreadable if unreadable is not None else codec._decode_with_care(value, INGESTED_MS, RULES_1)


@given(st.binary(max_size=200) | damaged() | near_events())
@example(b"[" * 70_000)
@example(b'{"a":' * 40_000)
@example(b'"' + b"\\" * 60_001)
@settings(unhurried, max_examples=1_500)
def test_decode_never_raises_and_its_quick_way_agrees_with_its_careful_one(value: bytes) -> None:
    found = decode(value, None, INGESTED_MS, RULES_1)
    if value:
        assert found == _careful(value)
    if isinstance(found, Event):
        fields = json.loads(value)
        assert parse_key(found.key) == (found.source_service, found.source_entity_id, found.usage_type)
        assert (fields["tenantId"], fields["usageType"]) == (found.tenant_id, found.usage_type)
        assert Decimal(found.quantity).scaleb(-6) == Decimal(json.loads(value, parse_float=str, parse_int=str)["quantity"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["schema-version", "Schema-Version", ""]),
            st.sampled_from([b"1", b"2", b"", b"1 ", b"\xff"]) | st.binary(max_size=3) | st.none(),
        ),
        max_size=3,
    )
)
@unhurried
def test_only_one_exact_version_header_is_taken(headers: list[tuple[str, bytes | None]]) -> None:
    assert SEEDS[0] is not None
    found = decode(SEEDS[0], headers, INGESTED_MS, RULES_1)
    said = [value for name, value in headers if name == "schema-version"]
    assert isinstance(found, Event) == (said in ([], [b"1"]))


@given(st.binary(max_size=64))
@unhurried
def test_what_the_parser_skips_it_checks_as_strictly_as_what_it_reads(text: bytes) -> None:
    """Metadata is kept unread: if the parser let something pass there, others could not read what we stored."""
    value = b'{"n":' + text + b"}"
    try:
        value.decode()
        msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except (UnicodeDecodeError, msgspec.DecodeError):
        return
    assert "n" in json.loads(value)


@given(json_values)
@unhurried
def test_nesting_is_what_a_parser_finds(document: Any) -> None:
    def depth(node: Any) -> int:
        if isinstance(node, dict):
            return 1 + max((depth(inner) for inner in node.values()), default=0)
        if isinstance(node, list):
            return 1 + max((depth(inner) for inner in node), default=0)
        return 0

    for ascii_only in (True, False):
        assert nesting_of(json.dumps(document, ensure_ascii=ascii_only).encode()) == depth(document)


@given(micros, st.sampled_from([1, -1]))
@unhurried
def test_a_quantity_survives_its_text(size: int, sign: int) -> None:
    text = format_quantity(size * sign)
    assert parse_quantity(text) == parse_sum(text) == size * sign
    assert Decimal(text).scaleb(6) == size * sign
    assert parse_quantity(text if "." in text else text + ".000000") == size * sign


@given(st.text(alphabet="0123456789.-+eE_ \n\u0661", max_size=22))
@unhurried
def test_a_text_is_a_quantity_only_if_its_decimal_is_exact_in_millionths(text: str) -> None:
    try:
        found = parse_quantity(text)
    except ValueError:
        return
    assert Decimal(text).scaleb(6) == found
    assert abs(found) < 10**18
    assert not set(text) - set("0123456789.-")


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
@unhurried
def test_an_instant_survives_its_text(at_ms: int) -> None:
    assert parse_instant(format_instant(at_ms)) == at_ms


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
@unhurried
def test_a_key_is_read_back_as_what_it_was_made_of(service: str, entity: str, usage_type: str) -> None:
    assert parse_key(dedup_key(service, entity, usage_type)) == (service, entity, usage_type)


@given(st.binary(max_size=40))
@unhurried
def test_bytes_are_a_key_only_if_they_are_what_their_parts_make(key: bytes) -> None:
    try:
        parts = parse_key(key)
    except ValueError:
        return
    assert dedup_key(*parts) == key


@given(ids, ids, ids, ids, micros, st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), json_values, max_size=4))
@unhurried
def test_an_encoded_event_is_decoded_as_what_was_meant(
    tenant: str, service: str, entity: str, usage_type: str, quantity: int, metadata: dict[str, Any]
) -> None:
    assume(max(len(text.encode()) for text in (tenant, service, entity, usage_type)) <= 256)
    draft = EventDraft(tenant, service, entity, usage_type, Decimal(quantity).scaleb(-6), metadata=metadata)
    encoded = encode_event(draft, INGESTED_MS)
    assert decode(encoded.value, [("schema-version", b"1")], INGESTED_MS, RULES_1) == encoded.event
    assert encoded.event.quantity == quantity
    assert encoded.event.occurred_at_ms == INGESTED_MS
    assert json.loads(encoded.event.metadata) == metadata
    assert (encoded.event.tenant_id, *parse_key(encoded.event.key)) == (tenant, service, entity, usage_type)


@given(
    st.text(max_size=300),
    st.one_of(st.text(max_size=20), st.integers(), st.decimals(), st.floats(), st.none()),
    st.one_of(
        st.none(), st.binary(max_size=30), st.dictionaries(st.text(max_size=4), st.floats() | st.text(max_size=4), max_size=2)
    ),
    st.one_of(st.none(), st.text(max_size=30), st.datetimes()),
)
@settings(unhurried, max_examples=300)
def test_encoding_refuses_with_a_reason_or_makes_what_the_consumer_takes(
    name: str, quantity: Any, metadata: Any, occurred_at: Any
) -> None:
    draft = EventDraft("t", "s", name, "T", quantity, occurred_at=occurred_at, metadata=metadata)
    try:
        encoded = encode_event(draft, INGESTED_MS)
    except InvalidEvent:
        return
    assert decode(encoded.value, None, INGESTED_MS, RULES_1) == encoded.event
    assert isinstance(quantity, str | int | Decimal)
    assert encoded.event.quantity == Decimal(quantity) * 1_000_000


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1_000_000])
def test_size_alone_decides_above_64_kib(size: int) -> None:
    found = decode(b"x" * size, None, INGESTED_MS, RULES_1)
    assert isinstance(found, Invalid)
    assert (found.reason == "too_large") == (size > 65_536)
