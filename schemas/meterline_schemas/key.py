"""The dedup key of an event, its hashes, and the partition it leads to.

The key is the identity of an event for ever, so a producer in any language must make the same bytes:
three netstrings, `<length in bytes>:<UTF-8 bytes>,`, of sourceService, sourceEntityId, usageType.
Lengths keep ("a", "b-c") and ("a-b", "c") apart whatever the ids hold. Vectors: `schemas/examples/keys.json`.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Final

from xxhash import xxh3_64_intdigest

_ID_LENGTH_DIGITS_MAX: Final = 3  # ids are at most 256 bytes
_MASK: Final = 0xFFFF_FFFF
_MULTIPLIER: Final = 0x5BD1_E995
_SEED: Final = 0x9747_B28C


def dedup_key(source_service: str, source_entity_id: str, usage_type: str) -> bytes:
    """The key's bytes. Takes any text; raises UnicodeEncodeError (a ValueError) on a lone surrogate."""
    if source_service.isascii() and source_entity_id.isascii() and usage_type.isascii():
        return (
            f"{len(source_service)}:{source_service},{len(source_entity_id)}:{source_entity_id},{len(usage_type)}:{usage_type},"
        ).encode()
    a, b, c = source_service.encode(), source_entity_id.encode(), usage_type.encode()
    return b"%d:%b,%d:%b,%d:%b," % (len(a), a, len(b), b, len(c), c)


def parse_key(key: bytes) -> tuple[str, str, str]:
    """(source_service, source_entity_id, usage_type) of a key; raises ValueError unless it is exactly three netstrings."""
    parts: list[str] = []
    at = 0
    for _ in range(3):
        colon = key.find(b":", at, at + _ID_LENGTH_DIGITS_MAX + 1)
        digits = key[at:colon] if colon >= 0 else b""
        if not digits.isdigit() or (len(digits) > 1 and digits[:1] == b"0"):
            raise ValueError(f"not a dedup key: no length at byte {at}")
        end = colon + 1 + int(digits)
        if key[end : end + 1] != b",":
            raise ValueError(f"not a dedup key: the text at byte {colon + 1} does not end with a comma after {int(digits)} bytes")
        parts.append(key[colon + 1 : end].decode())
        at = end + 1
    if at != len(key):
        raise ValueError(f"not a dedup key: {len(key) - at} bytes follow the third text")
    return parts[0], parts[1], parts[2]


def key_hash(key: bytes) -> int:
    """xxh3-64 of the key, unsigned: what the index holds. A hash is a suspicion, never an identity."""
    return xxh3_64_intdigest(key)


def row_hash(value: bytes) -> int:
    """xxh3-64 of the record's value, unsigned."""
    return xxh3_64_intdigest(value)


def murmur2(data: bytes) -> int:
    """MurmurHash2 with the seed and tail of Kafka's Java client, as an unsigned 32-bit number."""
    length = len(data)
    words = length >> 2
    h = _SEED ^ length
    for k in unpack_from(f"<{words}I", data):
        k = k * _MULTIPLIER & _MASK
        k = (k ^ k >> 24) * _MULTIPLIER & _MASK
        h = h * _MULTIPLIER & _MASK ^ k
    tail = data[words << 2 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * _MULTIPLIER & _MASK
    h = (h ^ h >> 13) * _MULTIPLIER & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that `key` belongs in, as the Java client and librdkafka's `murmur2_random` choose it."""
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, not {partitions}")
    return (murmur2(key) & 0x7FFF_FFFF) % partitions
