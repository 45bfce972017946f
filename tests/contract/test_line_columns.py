"""A delta whose lines are read as columns says what the definition says, or is refused with the same words."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from metering import line_columns
from metering.line_columns import LineColumns, decode, events_of
from meterline_schemas.delta import Delta, DeltaLine, Figures, decode_delta, encode_delta
from meterline_schemas.types import Epoch, Micros, Offset, Partition, TenantId, UsageType
from tests.contract.golden import documents

GOLDEN = {
    f"{kind}/{name}": document["value"].encode()
    for kind in ("valid", "invalid")
    for name, document in documents(f"usage.deltas/{kind}").items()
}
TENANTS = ("a", 'b"', "\u00e9\u4e16\u754c", "tnt 1", "\U0001f600")


@pytest.fixture(autouse=True)
def _however_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_columns, "MANY_BYTES", 0)


def delta(random: Random) -> Delta:
    """Some lines, their quantities of every width and sign."""
    drawn = {
        (tenant, usage_type, f"2026-11-{day}"): Micros(int(random.choice((-1, 0, 1, 1)) * 10 ** (random.random() * 37)))
        for tenant in TENANTS
        for usage_type in ("PHOTO", "T\u00fcr")
        for day in (20, 21, 29)
        if random.random() < 0.7
    }
    lines = tuple(
        DeltaLine(TenantId(tenant), UsageType(usage_type), day, quantity, 1 + int(random.random() * 9))
        for (tenant, usage_type, day), quantity in sorted(drawn.items())
    )
    events = sum(line.events for line in lines)
    return Delta(Epoch(1), Partition(0), Offset(0), Offset(events + 1), 1, lines, Figures(admitted=events, void=1))


def read(decoder: Any, value: bytes) -> object:
    try:
        found = decoder(value)
    except ValueError as error:
        return str(error)
    return found.cumulative, found.from_offset, found.to_offset, list(found.lines), events_of(found.lines)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_golden_delta_is_read_or_refused_as_defined(name: str) -> None:
    assert read(decode, GOLDEN[name]) == read(decode_delta, GOLDEN[name])


def test_lines_of_all_names_and_quantities_are_read_as_columns() -> None:
    for seed in range(50):
        sent = delta(Random(seed))
        found = decode(encode_delta(sent))
        assert isinstance(found.lines, LineColumns)
        assert (list(found.lines), len(found.lines)) == (list(sent.lines), len(sent.lines))
        assert (events_of(found.lines), found.cumulative) == (events_of(sent.lines), sent.cumulative)


def test_a_large_delta_is_read_as_columns_and_a_small_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    value = encode_delta(delta(Random(1)))
    for many, kind in ((len(value), LineColumns), (len(value) + 1, tuple)):
        monkeypatch.setattr(line_columns, "MANY_BYTES", many)
        assert isinstance(decode(value).lines, kind)


WRONG: list[tuple[int, Any]] = [
    *((0, name) for name in ("", "a\x1fb", "\x7f", "\u200b", "zzz")),
    *((1, name) for name in ("", "\x00", "A\u0085")),
    *(
        (2, day)
        for day in ("", "2026-11-31", "2026-1-01", "0000-01-01", "2026-11-2\u0661", "20261120", "2026-11-20 ", "9999-12-31")
    ),
    *((3, text) for text in ("", "-0", "0", "-0.5", "1.", ".5", "1.50", "01", "+1", "1e3", "1" * 32, "1" * 33, "1.1234567")),
    *((3, text) for text in ("\u0661", "1\n", "1\n2", " 1", "NaN", "-", "1." + "0" * 5 + "1")),
    *((4, events) for events in (0, -1, 1.0, "1", None, 1 << 63, (1 << 63) - 1, 1 << 70)),
]


@pytest.mark.parametrize(("place", "wrong"), WRONG)
def test_a_line_that_is_out_of_the_ordinary_anywhere_is_read_or_refused_as_defined(place: int, wrong: object) -> None:
    wire = msgspec.json.decode(encode_delta(delta(Random(3))))
    for at in (0, 5, len(wire["lines"]) - 1):
        changed = [list(line) for line in wire["lines"]]
        changed[at][place] = wrong
        value = msgspec.json.encode(wire | {"lines": changed})
        assert read(decode, value) == read(decode_delta, value)


def damaged(random: Random, value: bytes) -> bytes:
    """A few cuts, repeats and insertions, most of them in the lines."""
    for _ in range(1 + int(random.random() * 2)):
        at = int(random.random() * len(value))
        until = at + int(random.random() * 6)
        piece = random.choice((b"", value[at:until] * 2, b'"', b"0", b"-", b",", b"1", b"\\u0007", b"\xc3"))
        value = value[:at] + piece + value[until if random.random() < 0.5 else at :]
    return value


def test_damaged_deltas_are_read_or_refused_as_defined() -> None:
    random = Random(20_261_128)
    read_well = 0
    for _ in range(3_000):
        value = damaged(random, encode_delta(delta(random)))
        found = read(decode, value)
        assert found == read(decode_delta, value), value
        read_well += not isinstance(found, str)
    assert 0 < read_well < 3_000
