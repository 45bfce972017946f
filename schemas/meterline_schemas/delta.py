"""What one range adds to the counters, as it travels on `usage.deltas`, and the note in the consumer group's commit.

Both carry the cumulative figures since the epoch's start, so whoever reads one can tell whether it continues what was
counted before. Decoding is strict: a delta that is wrong anywhere is a ValueError, never a guess about money.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import islice, pairwise
from operator import itemgetter, lt
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from meterline_schemas.quantity import format_quantity, parse_sums
from meterline_schemas.types import Epoch, Micros, Offset, Partition, TenantId, UsageType

DELTA_SCHEMA_VERSION: Final = 1
"""The value of header `schema-version` on `usage.deltas`."""

HASH_MODULUS: Final = 1 << 64
_INT64_MAX: Final = (1 << 63) - 1
_COMMIT_PREFIX: Final = "v1"
_COMMIT_FIELDS: Final = 10
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_DIGITS: Final = re.compile("0|[1-9][0-9]{0,19}")


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts by verdict and the sum of admitted rows' hashes modulo 2**64, cumulative since the epoch's start."""

    admitted: int = 0
    duplicate: int = 0
    conflict: int = 0
    invalid: int = 0
    void: int = 0
    hash_sum: int = 0

    @property
    def offsets(self) -> int:
        """How many offsets got a verdict or are void: position minus the epoch's start (invariant I1)."""
        return self.admitted + self.duplicate + self.conflict + self.invalid + self.void

    def plus(self, other: Figures) -> Figures:
        """These and `other`'s, the hash sums added modulo 2**64."""
        return Figures(
            self.admitted + other.admitted,
            self.duplicate + other.duplicate,
            self.conflict + other.conflict,
            self.invalid + other.invalid,
            self.void + other.void,
            (self.hash_sum + other.hash_sum) % HASH_MODULUS,
        )

    def minus(self, earlier: Figures) -> Figures:
        """What was added since `earlier`; raises ValueError when that is more anywhere (then it is not earlier)."""
        added = Figures(
            self.admitted - earlier.admitted,
            self.duplicate - earlier.duplicate,
            self.conflict - earlier.conflict,
            self.invalid - earlier.invalid,
            self.void - earlier.void,
            (self.hash_sum - earlier.hash_sum) % HASH_MODULUS,
        )
        if min(added.admitted, added.duplicate, added.conflict, added.invalid, added.void) < 0:
            raise ValueError(f"figures went back: {earlier} before {self}")
        return added


class DeltaLine(NamedTuple):
    """What the range's admitted events add to one counter."""

    tenant_id: TenantId
    usage_type: UsageType
    day: str
    """UTC day of occurredAt, YYYY-MM-DD."""
    quantity: Micros
    events: int


class Lines(Protocol):
    """A tuple of lines, or the same in a form that is made for many."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[DeltaLine]: ...


@dataclass(frozen=True, slots=True)
class Delta:
    """The range [from_offset, to_offset) of one partition. Lines are sorted by (tenant, type, day), one each."""

    epoch: Epoch
    partition: Partition
    from_offset: Offset
    to_offset: Offset
    rules_version: int
    lines: Lines
    cumulative: Figures
    """Since the epoch's start, this range included."""


class _FiguresWire(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    admitted: int
    duplicate: int
    conflict: int
    invalid: int
    void: int
    hash_sum: str


class WireDelta(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A delta as it stands in the record, before anything but names and types is looked at."""

    epoch: int
    partition: int
    from_offset: int
    to_offset: int
    rules_version: int
    cumulative: _FiguresWire
    # tenantId, usageType, day, quantity, events
    lines: list[tuple[str, str, str, str, int]]


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(WireDelta)


def encode_delta(delta: Delta) -> bytes:
    """The record value of `usage.deltas`. Raises ValueError for a delta that `decode_delta` would refuse."""
    _check(delta)
    figures = delta.cumulative
    return _ENCODER.encode(
        WireDelta(
            epoch=delta.epoch,
            partition=delta.partition,
            from_offset=delta.from_offset,
            to_offset=delta.to_offset,
            rules_version=delta.rules_version,
            cumulative=_FiguresWire(
                figures.admitted, figures.duplicate, figures.conflict, figures.invalid, figures.void, str(figures.hash_sum)
            ),
            lines=[
                (line.tenant_id, line.usage_type, line.day, format_quantity(line.quantity), line.events) for line in delta.lines
            ],
        )
    )


def decode_delta(value: bytes) -> Delta:
    """The delta in a record value; raises ValueError on anything that `encode_delta` would not have written."""
    return delta_of(parse_delta(value))


def parse_delta(value: bytes) -> WireDelta:
    """The first half of `decode_delta`, which `delta_of` ends."""
    try:
        value.decode()  # msgspec checks only the strings that it keeps
        return _DECODER.decode(value)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a delta: {error}") from None


def delta_of(wire: WireDelta) -> Delta:
    """The second half of `decode_delta`."""
    delta = _delta(wire, _lines(wire.lines))
    _check(delta)
    return delta


def delta_with(wire: WireDelta, lines: Lines, events: int) -> Delta:
    """As `delta_of`, with the wire's lines in another form: they have passed every check of lines and have so many events."""
    delta = _delta(wire, lines)
    _check_range(delta, events)
    return delta


def _delta(wire: WireDelta, lines: Lines) -> Delta:
    figures = wire.cumulative
    return Delta(
        epoch=Epoch(wire.epoch),
        partition=Partition(wire.partition),
        from_offset=Offset(wire.from_offset),
        to_offset=Offset(wire.to_offset),
        rules_version=wire.rules_version,
        lines=lines,
        cumulative=Figures(
            figures.admitted, figures.duplicate, figures.conflict, figures.invalid, figures.void, _natural(figures.hash_sum)
        ),
    )


def _lines(wire: list[tuple[str, str, str, str, int]]) -> tuple[DeltaLine, ...]:
    """By column, for a range may have as many lines as events."""
    tenants, usage_types, days, quantities, events = by_column(wire)
    return tuple(map(DeltaLine._make, zip(tenants, usage_types, days, parse_sums(quantities), events, strict=True)))


def by_column(lines: Iterable[tuple[Any, ...]]) -> Iterator[list[Any]]:
    """The five columns of lines, which may be gone over more than once. Not by `zip(*lines)`: the call would hold thousands of
    arguments, which the collector looks at again and again.
    """
    return (list(map(itemgetter(place), lines)) for place in range(5))


@dataclass(frozen=True, slots=True)
class CommitNote:
    """What the consumer says beside a committed offset: which epoch, under which rules, and the figures there."""

    epoch: Epoch
    offset: Offset
    rules_version: int
    figures: Figures

    def matches(self, epoch: int, offset: int) -> bool:
        """Whether the note speaks of this commit. One that does not is not trusted."""
        return self.epoch == epoch and self.offset == offset


def encode_commit(epoch: int, offset: int, rules_version: int, figures: Figures) -> str:
    """`v1;epoch;offset;rules;admitted;duplicate;conflict;invalid;void;hash_sum`, decimal."""
    _check_position(epoch, offset, rules_version, figures)
    numbers = (
        epoch, offset, rules_version,
        figures.admitted, figures.duplicate, figures.conflict, figures.invalid, figures.void, figures.hash_sum,
    )  # fmt: skip
    return ";".join((_COMMIT_PREFIX, *map(str, numbers)))


def parse_commit(text: str) -> CommitNote:
    """The note in a commit's metadata; raises ValueError on anything that `encode_commit` would not have written."""
    parts = text.split(";")
    if len(parts) != _COMMIT_FIELDS or parts[0] != _COMMIT_PREFIX:
        raise ValueError(f"not a commit note: {text[:200]!a}")
    epoch, offset, rules_version, *figures = (_natural(part) for part in parts[1:])
    note = CommitNote(Epoch(epoch), Offset(offset), rules_version, Figures(*figures))
    _check_position(note.epoch, note.offset, note.rules_version, note.figures)
    return note


def _natural(text: str) -> int:
    if _DIGITS.fullmatch(text) is None:
        raise ValueError(f"{text[:64]!a} is not a decimal number without sign or leading zeros")
    return int(text)


def _check_position(epoch: int, offset: int, rules_version: int, figures: Figures) -> None:
    """What holds of every position and its figures."""
    counts = (figures.admitted, figures.duplicate, figures.conflict, figures.invalid, figures.void)
    if not (1 <= epoch < 1 << 16 and 0 <= offset < 1 << 48 and 1 <= rules_version < 1 << 16):
        raise ValueError(f"out of range: epoch {epoch}, offset {offset}, rules version {rules_version}")
    if min(counts) < 0 or not 0 <= figures.hash_sum < HASH_MODULUS:
        raise ValueError(f"out of range: {figures}")
    if figures.offsets > offset:
        raise ValueError(f"{figures.offsets} verdicts below offset {offset}")


def _check(delta: Delta) -> None:
    """What holds of every delta, whoever made it: asserted where it is written and where it is read."""
    _check_range(delta, _check_lines(delta.lines) if delta.lines else 0)


def _check_range(delta: Delta, events: int) -> None:
    """What holds of everything but the lines, which have so many events."""
    _check_position(delta.epoch, delta.to_offset, delta.rules_version, delta.cumulative)
    if not (0 <= delta.partition < 1 << 31 and 0 <= delta.from_offset < delta.to_offset):
        raise ValueError(f"out of range: partition {delta.partition}, [{delta.from_offset}, {delta.to_offset})")
    if events > delta.to_offset - delta.from_offset or events > delta.cumulative.admitted:
        raise ValueError(
            f"{events} events in a range of {delta.to_offset - delta.from_offset}, {delta.cumulative.admitted} admitted"
        )


def _check_lines(lines: Lines) -> int:
    """What holds of the lines of one delta, by column; their events."""
    tenants, usage_types, days, _, events = by_column(lines)
    names = "".join(tenants) + "".join(set(usage_types))
    if not names.isprintable() and _CONTROL.search(names):
        raise ValueError("a name holds a control character, which no event's may")
    keys = list(zip(tenants, usage_types, days, strict=True))
    if not all(map(lt, keys, islice(keys, 1, None))):
        before, at = next((one, other) for one, other in pairwise(keys) if other <= one)
        raise ValueError(f"lines are not sorted, or one stands twice: {at} after {before}")
    if not (all(tenants) and all(usage_types) and min(events) >= 1 and max(events) <= _INT64_MAX):
        wrong = next(line for line in lines if not (line[0] and line[1] and 1 <= line.events <= _INT64_MAX))
        raise ValueError(f"not a line: {wrong}")
    for day in set(days):
        check_day(day)
    return sum(events)


@lru_cache(maxsize=4_096)  # deltas have few days; what is wrong is not kept
def check_day(day: str) -> None:
    """Raises ValueError for anything but a day of the calendar as YYYY-MM-DD."""
    try:
        if date.fromisoformat(day).isoformat() == day:
            return
    except ValueError:
        pass
    raise ValueError(f"{day[:64]!a} is not a day YYYY-MM-DD")
