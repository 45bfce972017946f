"""Byte strings that nobody meant as events: seeded, small, and as nasty as a broken producer makes them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import NamedTuple

from tests.contract.golden import documents, record_of

_SNIPPETS = (
    *(
        b'"',
        b"\\",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"null",
        b"NaN",
        b"1e9",
        b"-",
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
    ),
    *(b'"quantity":"1"', b'"kind":"correction"', b'"corrects":{}', b'"metadata":{}', b'"tenantId":"t",'),
)
_HEADERS = (
    [("schema-version", b"1")],
    [("schema-version", b"2")],
    [("schema-version", None)],
    [("schema-version", b"1"), ("schema-version", b"1")],
    [("schema-version", b"\xff")],
    [("", b"")],
    [("other", b"x" * 200)],
)


class Poison(NamedTuple):
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes | None]]


def golden_bad() -> Iterator[Poison]:
    """Every golden example of an invalid event."""
    for document in documents("usage.events/invalid").values():
        record = record_of(document)
        yield Poison(record.value, None, list(record.headers))


def poison(seed: int, count: int) -> Iterator[Poison]:
    """Random bytes, valid events mutated and cut short, deep nesting, strange keys and headers; repeats of all these."""
    dice = random.Random(seed)
    earlier: list[bytes] = [b""]
    for number in range(count):
        kind = dice.random()
        if kind < 0.2:
            value: bytes | None = dice.randbytes(dice.randrange(60))
        elif kind < 0.7:
            value = _mutated(_event(dice, number), dice)
        elif kind < 0.85:
            whole = _event(dice, number)
            value = whole[: dice.randrange(len(whole))]
        elif kind < 0.88:
            value = dice.choice((b"[", b'{"a":', b'{"metadata":{"a":[')) * dice.randrange(1, 300)
        elif kind < 0.9:
            value = None
        else:
            value = dice.choice(earlier)
        if value is not None and dice.random() < 0.01:
            earlier.append(value)
        key = dice.randbytes(dice.randrange(12)) if dice.random() < 0.3 else None
        yield Poison(value, key, dice.choice(_HEADERS) if dice.random() < 0.1 else [])  # type: ignore[arg-type]


def _event(dice: random.Random, number: int) -> bytes:
    event = {
        "tenantId": f"t{number % 9}",
        "sourceService": "worker",
        "sourceEntityId": f"p{number % 5_000}",
        "usageType": "PHOTO",
        "quantity": dice.choice(("1", "0.5", "-1", "1e3", "999999999999.999999", "NaN", "0.0000001", 1, 1.5, True, None)),
    }
    return json.dumps(event).encode()


def _mutated(value: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(value) + 1)
        value = value[:at] + dice.choice(_SNIPPETS) + value[at + dice.randrange(6) :]
    return value
