"""Columns of text, in whichever of two forms they came: Arrow's where many were read at once, a list where few were.

Nobody but this module asks which. A list costs nothing to make and Arrow's calls cost microseconds each; an array costs
next to nothing a text and a list some tens of nanoseconds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metering.records import Integers

Texts: TypeAlias = Any
"""A pyarrow.Array (which ships no types) or a list, of str or bytes without nulls."""


def take(texts: Texts, rows: Integers) -> Texts:
    """These rows, in this order."""
    return [texts[row] for row in rows.tolist()] if isinstance(texts, list) else texts.take(pa.array(rows))


def listed(texts: Texts) -> list[Any]:
    return texts if isinstance(texts, list) else texts.to_pylist()


def arrow(texts: Texts, kind: pa.DataType) -> pa.Array:
    return pa.array(texts, kind) if isinstance(texts, list) else texts


def joined(parts: Sequence[Texts], kind: pa.DataType) -> Texts:
    """One after the other."""
    if all(isinstance(part, list) for part in parts):
        return [text for part in parts for text in part]
    return pa.concat_arrays([arrow(part, kind) for part in parts])


def equal(texts: Texts, others: Texts) -> NDArray[np.bool_]:
    """Which stand in the same place of both."""
    if isinstance(texts, list) and isinstance(others, list):
        return np.fromiter(map(operator.eq, texts, others), dtype=bool, count=len(texts))
    kind = (others if isinstance(texts, list) else texts).type
    found: NDArray[np.bool_] = pc.equal(arrow(texts, kind), arrow(others, kind)).to_numpy(zero_copy_only=False)
    return found


def coded(texts: Texts) -> tuple[NDArray[np.int64], list[Any]]:
    """A number for each text, equal for equal ones, and the text of each number."""
    if isinstance(texts, list):
        numbers: dict[Any, int] = {}
        codes = np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)
        return codes, list(numbers)
    encoded = texts.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
