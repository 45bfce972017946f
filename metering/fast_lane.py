"""The events that need no second look, read all at once.

Takes a record only where it is sure that `meterline_schemas.event.decode` would make the very same event of it:
printable ASCII without a backslash, the version header absent or right, the required fields and no others but
occurredAt, kind "usage" and metadata, a quantity that is a string without a sign, and every rule kept. Whatever else a
record holds, right or wrong, it is left to that function. So this module never says that something is invalid, and never why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from metering.columns import NO_EVENTS, Columns
from metering.keys import hashes_of, lengths_of, murmurs_of, netstrings
from metering.records import USUAL_HEADERS, Integers, Records
from meterline_schemas.event import version_problem
from meterline_schemas.instants import parse_instant
from meterline_schemas.key import row_hash
from meterline_schemas.plain import ABSENT, NOT_PLAIN, PlainWire, read_plain
from meterline_schemas.rules import Rules

Flags = NDArray[np.bool_]

_QUANTITY: Final = "^(0|[1-9][0-9]{0,11})([.][0-9]{1,6})?$"
_INSTANT: Final = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,3})?Z$"
_YEAR_1_MS: Final = -62_135_596_800_000
_MICROS: Final = pa.decimal128(18, 6)
_MS: Final = pa.timestamp("ms", "UTC")

_FIRST_PRINTABLE: Final = np.uint8(0x20)
_PRINTABLE: Final = np.uint8(0x7E - 0x20)
_BACKSLASH: Final = np.uint8(0x5C)
_OPENING: Final = np.uint8(0x7B)
"""A brace; a bracket is the same but for one bit, the one that makes letters small."""
_SMALL: Final = np.uint8(0x20)


def taken(records: Records, first_record: int, partition: int, partitions: int, rules: Rules) -> Columns:
    """The events of the records that can be taken here; `first_record` is the number of the first one in its range."""
    chosen, wires = _decoded(records, np.flatnonzero(_plain(records, rules)))
    if not wires:
        return NO_EVENTS
    tenant_id = pa.array([wire.tenant_id for wire in wires], pa.string())
    source_service = pa.array([wire.source_service for wire in wires], pa.string())
    source_entity_id = pa.array([wire.source_entity_id for wire in wires], pa.string())
    usage_type = pa.array([wire.usage_type for wire in wires], pa.string())
    fits = np.ones(len(wires), dtype=bool)
    for ids in (tenant_id, source_service, source_entity_id, usage_type):
        sizes = lengths_of(ids)
        if not (sizes.min() >= 1 and sizes.max() <= rules.id_bytes_max):
            fits &= (sizes >= 1) & (sizes <= rules.id_bytes_max)

    micros, exact = _quantities([wire.quantity for wire in wires])
    ingested_ms = records.timestamps_ms[chosen]
    occurred_ms, real = _instants([wire.occurred_at for wire in wires], ingested_ms)
    ahead_ms = occurred_ms - ingested_ms
    fits &= exact & real & (ahead_ms >= -rules.past_ms_max) & (ahead_ms <= rules.ahead_ms_max)
    metadata, kept = _metadata([wire.metadata for wire in wires], rules)
    fits &= kept

    key = netstrings(source_service, source_entity_id, usage_type)
    murmurs = murmurs_of(key)
    fits &= (murmurs & np.uint32(0x7FFF_FFFF)) % np.uint32(partitions) == partition
    values = _chosen(records.values, chosen)
    columns = Columns(
        record=chosen + first_record,
        offset=records.offsets[chosen],
        ingested_ms=ingested_ms,
        tenant_id=tenant_id,
        source_service=source_service,
        source_entity_id=source_entity_id,
        usage_type=usage_type,
        micros=micros,
        kind=pa.repeat(pa.scalar("usage", pa.string()), len(wires)),
        corrects=pa.repeat(pa.scalar(b"", pa.binary()), len(wires)),
        occurred_ms=occurred_ms,
        metadata=metadata,
        key=key,
        key_hash=hashes_of(key),
        key_murmur2=murmurs,
        row_hash=np.fromiter(map(row_hash, values), dtype=np.uint64, count=len(values)),
    )
    return columns if fits.all() else columns.take(np.flatnonzero(fits))


def _plain(records: Records, rules: Rules) -> Flags:
    """Which records may be given to the parser at all, and hold nothing that it would have to translate."""
    values = [value or b"" for value in records.values]
    sizes = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    plain = (sizes > 0) & (sizes <= rules.event_bytes_max)
    ends = np.cumsum(sizes)
    data = np.frombuffer(b"".join(values), dtype=np.uint8)

    odd = (data - _FIRST_PRINTABLE > _PRINTABLE) | (data == _BACKSLASH)
    if odd.any():
        plain[np.searchsorted(ends, np.flatnonzero(odd), side="right")] = False

    # Whoever nests deeper than so many has more opening brackets than so many: rare enough to leave it to the definition.
    opening = np.flatnonzero(data | _SMALL == _OPENING)
    most = rules.nesting_max
    if len(opening) > most and (opening[most:] - opening[:-most]).min() < sizes.max():
        owner = np.searchsorted(ends, opening, side="right")
        plain[owner[most:][owner[most:] == owner[:-most]]] = False

    if version_problem(USUAL_HEADERS, rules) is not None:
        plain[[index for index, headers in enumerate(records.headers) if headers]] = False
    for index in records.with_unusual_headers():
        if version_problem(records.headers[index], rules) is not None:
            plain[index] = False
    return plain


def _decoded(records: Records, plain: Integers) -> tuple[Integers, list[PlainWire]]:
    """What the parser made of these records, without those that it refused."""
    wires: list[PlainWire] = []
    refused: list[int] = []
    decoding = map(read_plain, _chosen(records.values, plain))
    while True:
        try:
            for wire in decoding:
                wires.append(wire)  # noqa: PERF402 - so that what was decoded before an error is kept
        except NOT_PLAIN:
            refused.append(len(wires) + len(refused))
            continue
        break
    return (np.delete(plain, refused) if refused else plain), wires


def _chosen(values: Sequence[Any], rows: Integers) -> Sequence[Any]:
    return values if len(rows) == len(values) else [values[row] for row in rows.tolist()]


def _quantities(texts: Sequence[str]) -> tuple[Integers, Flags]:
    """Millionths, and which texts are quantities without a sign."""
    found = pa.array(texts, pa.string())
    exact = pc.match_substring_regex(found, _QUANTITY)
    flags = exact.to_numpy(zero_copy_only=False)
    if not flags.all():
        found = pc.if_else(exact, found, "0")
    # A decimal128 of this type holds the millionths in its lower word.
    words = np.frombuffer(found.cast(_MICROS).buffers()[1], dtype=np.int64)
    return words[::2].copy(), flags


def _instants(texts: Sequence[str], ingested_ms: Integers) -> tuple[Integers, Flags]:
    """Milliseconds since 1970, the ingest time where the text is absent, and which texts are instants."""
    found = pa.array(texts, pa.string())
    usual = pc.match_substring_regex(found, _INSTANT)
    flags = usual.to_numpy(zero_copy_only=False).copy()
    try:
        cast = (found if flags.all() else pc.if_else(usual, found, "1970-01-01T00:00:00Z")).cast(_MS)
        at_ms = cast.cast(pa.int64()).to_numpy().copy()
        others = np.flatnonzero(~flags | (at_ms < _YEAR_1_MS))
    except pa.ArrowInvalid:  # a day that the calendar lacks
        at_ms = np.zeros(len(texts), dtype=np.int64)
        others = np.arange(len(texts))
    for index in others.tolist():
        text = texts[index]
        try:
            at_ms[index] = ingested_ms[index] if text == ABSENT else parse_instant(text)
        except ValueError:
            flags[index] = False
        else:
            flags[index] = True
    return at_ms, flags


def _metadata(raws: Sequence[Any], rules: Rules) -> tuple[pa.BinaryArray, Flags]:
    """The texts as they were sent, and which are objects within the limit, or absent."""
    sizes = np.fromiter(map(len, raws), dtype=np.int64, count=len(raws))
    ends = np.zeros(len(raws) + 1, dtype=np.int32)
    np.cumsum(sizes, out=ends[1:])
    text = b"".join(raws)
    found = pa.Array.from_buffers(pa.binary(), len(raws), [None, pa.py_buffer(ends), pa.py_buffer(text)])
    if not text:
        return found, np.ones(len(raws), dtype=bool)
    first = np.frombuffer(text, dtype=np.uint8)[np.minimum(ends[:-1], len(text) - 1)]
    return found, (sizes == 0) | ((first == _OPENING) & (sizes <= rules.metadata_bytes_max))
