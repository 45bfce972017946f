"""Dedup keys of many events at once: the same bytes and hashes as `meterline_schemas.key` makes one by one."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metering.index import Hashes
from meterline_schemas.key import key_hash

_MULTIPLIER: Final = np.uint32(0x5BD1_E995)
_SEED: Final = np.uint32(0x9747_B28C)
_WORD: Final = 4


def lengths_of(texts: pa.Array) -> NDArray[np.int32]:
    """The bytes of each text or byte string of an array without nulls."""
    return np.diff(_ends(texts))


def netstrings(first: pa.StringArray, second: pa.StringArray, third: pa.StringArray) -> pa.BinaryArray:
    """The dedup key of each row's three ids."""
    parts: list[object] = []
    for texts in (first, second, third):
        parts += [pa.array(lengths_of(texts)).cast(pa.string()), ":", texts, ","]
    joined = pc.binary_join_element_wise(*parts, "")
    return joined.cast(pa.binary())


def hashes_of(keys: pa.BinaryArray) -> Hashes:
    """xxh3-64 of each."""
    return np.fromiter(map(key_hash, keys.to_pylist()), dtype=np.uint64, count=len(keys))


def murmurs_of(keys: pa.BinaryArray) -> NDArray[np.uint32]:
    """murmur2 of each, as the Java client computes it: word by word over all keys that are so long."""
    if not len(keys):
        return np.empty(0, dtype=np.uint32)
    ends = _ends(keys)
    # Behind the last key stands room for a whole word, so that a tail is read like any other word.
    data = np.zeros(int(ends[-1] - ends[0]) + _WORD, dtype=np.uint8)
    data[:-_WORD] = np.frombuffer(keys.buffers()[2], dtype=np.uint8)[ends[0] : ends[-1]]
    words = np.ndarray(shape=(len(data) - _WORD + 1,), dtype="<u4", buffer=data.data, strides=(1,))

    sizes = np.diff(ends)
    order = np.argsort(-sizes, kind="stable")  # the longest first: the keys that have an n-th word stand in front
    sizes, starts = sizes[order], (ends[:-1] - ends[0]).astype(np.int64)[order]
    whole = sizes // _WORD
    h = _SEED ^ sizes.astype(np.uint32)
    reaching = np.searchsorted(-whole, -np.arange(1, int(whole[0]) + 1), side="right")
    for number, rows in enumerate(reaching.tolist()):
        k = words[starts[:rows] + _WORD * number] * _MULTIPLIER
        k ^= k >> np.uint32(24)
        k *= _MULTIPLIER
        h[:rows] *= _MULTIPLIER
        h[:rows] ^= k
    left = (sizes % _WORD).astype(np.uint32)
    tail = words[starts + _WORD * whole] & ((np.uint32(1) << (left * np.uint32(8))) - np.uint32(1))
    h = np.where(left > 0, (h ^ tail) * _MULTIPLIER, h)
    h ^= h >> np.uint32(13)
    h *= _MULTIPLIER
    h ^= h >> np.uint32(15)
    found = np.empty(len(keys), dtype=np.uint32)
    found[order] = h
    return found


def _ends(texts: pa.Array) -> NDArray[np.int32]:
    """Where each begins in the array's bytes, and where the last ends."""
    if not len(texts):
        return np.zeros(1, dtype=np.int32)
    return np.frombuffer(texts.buffers()[1], dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
