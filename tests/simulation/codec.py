"""The codec and the hashes, their answers kept: the same few values are read by every schedule.

`key_hash` can be made weak, so that keys collide; that is what exact confirmation and "a row never recognises itself"
are for, and 64 bits would never show it.
"""

from __future__ import annotations

from meterline_schemas import event, key
from meterline_schemas.event import Event, Invalid
from meterline_schemas.rules import Rules
from tests.simulation.workload import Headers

_WEAK_HASHES = 3

_decoded: dict[tuple[bytes | None, Headers, int, int], Event | Invalid] = {}
_murmurs: dict[bytes, int] = {}
_hashes: dict[bytes, int] = {}
_weak = False


def use_weak_hashes(weak: bool) -> None:
    global _weak
    if weak is not _weak:
        _weak = weak
        _hashes.clear()


def decode(value: bytes | None, headers: Headers, ingested_ms: int, rules: Rules) -> Event | Invalid:
    asked = (value, headers, ingested_ms, rules.version)
    found = _decoded.get(asked)
    if found is None:
        found = _decoded[asked] = event.decode(value, headers, ingested_ms, rules)
    return found


def murmur2(data: bytes) -> int:
    found = _murmurs.get(data)
    if found is None:
        found = _murmurs[data] = key.murmur2(data)
    return found


def key_hash(data: bytes) -> int:
    found = _hashes.get(data)
    if found is None:
        found = key.key_hash(data)
        if _weak:
            found = found % _WEAK_HASHES + 1
        _hashes[data] = found
    return found
