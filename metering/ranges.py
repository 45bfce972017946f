"""The deciding half of the range chain: what each record of [from, to) is, and what the range adds.

Pure: the consumer and the simulation call these very functions. A verdict is a function of the log below the record in
its partition and of the rules in force at its position; nothing else may enter.

A look-up goes current range, P (decided, not yet in C), C (acknowledged). It begins by hash, for all records at once: a
record whose hash nobody else has is admitted. The others are looked at one by one, by their full keys: a hash is only a
suspicion. Of a hit in C `suspects` names the hash, the caller fetches the admitted rows of it, and `decide` compares.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from metering import texts
from metering.columns import Columns
from metering.index import CommittedIndex, Hashes
from metering.ranked import Ranked, held, repeated
from metering.reading import Reading, Readings
from metering.records import Integers, Span
from meterline_schemas.delta import Delta, DeltaLine, Figures, encode_delta
from meterline_schemas.event import Claim as Content
from meterline_schemas.event import Invalid, conflict_reason
from meterline_schemas.instants import utc_day
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import Rules
from meterline_schemas.types import Kind, Micros

_DAY_MS = 86_400_000
_MASK64 = (1 << 64) - 1
_LOW_BITS = 32
_NO_ROWS = np.empty(0, dtype=np.int64)
_CONTENT = slice(3, 7)
"""Of a claim: what a later record of its key is compared with."""


class Claim(NamedTuple):
    """The admitted holder of a key: where it stands, and what a later record of the key is compared with."""

    epoch: int
    partition: int
    offset: int
    tenant_id: str
    quantity: Micros
    kind: str
    corrects: bytes
    row_hash: int
    key_hash: int

    @property
    def position(self) -> tuple[int, int]:
        return self.epoch, self.offset

    @property
    def content(self) -> Content:
        return Content(self.tenant_id, self.quantity, cast(Kind, self.kind), self.corrects)


@dataclass(frozen=True, slots=True)
class Reject:
    """A row for usage_rejects: an invalid record, a conflict, or a duplicate whose bytes differ."""

    reading: Reading
    verdict: Literal["invalid", "conflict", "duplicate"]
    reason: Reason
    detail: str
    admitted: Claim | None


@dataclass(frozen=True)
class Decided:
    """A range with its verdicts: what to store, what to announce, what to commit."""

    span: Span
    rules_version: int
    by_hash: Ranked
    """What the range claims: the admitted rows."""
    rejects: tuple[Reject, ...]
    delta: Delta

    @property
    def figures(self) -> Figures:
        """Cumulative at `to`, since the epoch's start."""
        return self.delta.cumulative

    @cached_property
    def announcement(self) -> bytes:
        """The delta as it travels."""
        return encode_delta(self.delta)

    @property
    def admitted(self) -> Columns:
        return self.by_hash.rows

    @property
    def ranked(self) -> Hashes:
        """Of the keys that the range claims, sorted."""
        return self.by_hash.hashes

    def claims(self, hashes: Hashes) -> dict[bytes, Claim]:
        """What the range claims of these hashes, each of which stands once, by full key."""
        return claims_of(self.span.epoch, self.span.partition, self.admitted, self.by_hash.find(hashes))


class Pending:
    """P: ranges of one partition that are decided and not yet in C, the oldest first.

    Only the deciding thread may touch it. A range leaves by `acknowledge`, which adds it to C before it drops it.
    """

    def __init__(self) -> None:
        self._ranges: list[Decided] = []

    def __len__(self) -> int:
        return len(self._ranges)

    def add(self, decided: Decided) -> None:
        self._ranges.append(decided)

    def hits(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of `hashes` a range in P claims a key of."""
        found = np.zeros(len(hashes), dtype=bool)
        for decided in self._ranges:
            found |= held(decided.ranked, hashes)
        return found

    def by_hash(self) -> Iterator[Ranked]:
        """What each range in P claims."""
        return (decided.by_hash for decided in self._ranges)

    def claims(self, hashes: Hashes) -> dict[bytes, Claim]:
        """The claims by ranges in P on keys of these hashes, each of which stands once, by full key."""
        found: dict[bytes, Claim] = {}
        for decided in self._ranges:
            found |= decided.claims(hashes)
        return found

    def acknowledge(self, decided: Decided, committed: CommittedIndex) -> None:
        """Moves the oldest range, which must be `decided`, to C."""
        if not self._ranges or self._ranges[0] is not decided:
            raise ValueError("ranges are acknowledged in the order in which they were decided")
        committed.add(decided.ranked)
        self._ranges.pop(0)


class Suspects(NamedTuple):
    """What is known of a range before it is decided."""

    hashes: Hashes
    """Those whose admitted rows `decide` needs. Sorted, each once."""
    repeats: Integers
    """The rows that repeat byte by byte a row which is at hand."""


def suspects(readings: Readings, committed: CommittedIndex, pending: Pending, at_hand: Iterable[Ranked] = ()) -> Suspects:
    """What C holds of the range's hashes and neither P nor the rows that are `at_hand` answer.

    These rows are of the range's partition and of C.
    """
    hit = np.flatnonzero(committed.hits(readings.ranked))
    rows = readings.order[hit]
    if not len(rows):
        return Suspects(readings.ranked[:0], rows)
    repeats = repeated(readings.columns, rows, at_hand)
    hashes = readings.ranked[hit[~repeats]]
    keys = texts.listed(texts.take(readings.columns.key, rows[~repeats]))
    answered = pending.claims(_distinct(hashes))
    unanswered = np.fromiter((key not in answered for key in keys), dtype=bool, count=len(keys))
    return Suspects(_distinct(hashes[unanswered]), rows[repeats])


def decide(
    readings: Readings,
    rules: Rules,
    pending: Pending,
    confirmed: Mapping[bytes, Claim],
    before: Figures,
    repeats: Integers = _NO_ROWS,
) -> Decided:
    """The verdicts of a range.

    `confirmed` maps keys to their admitted rows among the suspects; a row at the record's own or a later position is
    ignored, for a row never recognises itself. `before` are the cumulative figures at the range's begin. `repeats` are as
    `suspects` says; such as lie beyond the range are ignored.
    """
    span, columns = readings.span, readings.columns
    admits = np.ones(len(columns), dtype=bool)
    admits[repeats[repeats < len(columns)]] = False
    met = _met(readings, pending, confirmed, admits)
    rejects = [_refused(reading) for _, reading in readings.invalid]
    invalid, conflicts = len(rejects), 0
    if len(met):
        holders = pending.claims(_distinct(np.sort(columns.key_hash[met])))
        for row, (key, claim) in zip(met.tolist(), _claims(span.epoch, span.partition, columns, met), strict=True):
            holder = holders.get(key) or _confirmed_before(claim, confirmed.get(key))
            if holder is None:
                holders[key] = claim
                continue
            admits[row] = False
            reject = _turned_away(readings, row, claim, holder)
            if reject is not None:
                rejects.append(reject)
                conflicts += reject.verdict == "conflict"
        rejects.sort(key=lambda reject: reject.reading.record.offset)

    admitted, ranked, order = columns, readings.ranked, readings.order
    if not admits.all():
        left = admits[order]
        admitted, ranked, order = columns.take(admits.nonzero()[0]), ranked[left], (admits.cumsum() - 1)[order[left]]
    figures = Figures(
        admitted=before.admitted + len(admitted),
        duplicate=before.duplicate + len(columns) - len(admitted) - conflicts,
        conflict=before.conflict + conflicts,
        invalid=before.invalid + invalid,
        void=before.void + (span.to_offset - span.from_offset) - len(readings),
        hash_sum=(before.hash_sum + int(np.add.reduce(admitted.row_hash, dtype=np.uint64))) & _MASK64,
    )
    lines = delta_lines(admitted)
    delta = Delta(span.epoch, span.partition, span.from_offset, span.to_offset, rules.version, lines, figures)
    return Decided(span, rules.version, Ranked(ranked, order, admitted), tuple(rejects), delta)


def _met(readings: Readings, pending: Pending, confirmed: Mapping[bytes, Claim], admits: NDArray[np.bool_]) -> Integers:
    """The rows, ascending, that must be looked at one by one: another row of the range has their hash, or a range in P, or a
    confirmed row, and they do not repeat a row byte by byte. Those that do so in P are no longer admitted either.
    """
    ranked = readings.ranked
    met = pending.hits(ranked)
    rows = readings.order[met]
    admits[rows[repeated(readings.columns, rows, pending.by_hash())]] = False
    equal = ranked[1:] == ranked[:-1]
    met[1:] |= equal
    met[:-1] |= equal
    if confirmed:
        hashes = np.array([claim.key_hash for claim in confirmed.values()], dtype=np.uint64)
        met |= held(np.sort(hashes), ranked)
    found = np.sort(readings.order[met])
    return found[admits[found]]


def _confirmed_before(claim: Claim, found: Claim | None) -> Claim | None:
    return found if found is not None and found.position < claim.position else None


def _refused(reading: Reading) -> Reject:
    assert isinstance(reading.event, Invalid)
    return Reject(reading, "invalid", reading.event.reason, reading.event.detail, None)


def _turned_away(readings: Readings, row: int, claim: Claim, holder: Claim) -> Reject | None:
    """What becomes of a record whose key `holder` has; None for a duplicate that nobody needs to see."""
    if claim[_CONTENT] == holder[_CONTENT] and claim.row_hash == holder.row_hash:
        return None
    reason = conflict_reason(holder.content, claim.content)
    if reason is None:
        detail = "the same usage in other bytes; not counted again"
        return Reject(readings.reading(row), "duplicate", Reason.DIFFERING_DUPLICATE, detail, holder)
    return Reject(readings.reading(row), "conflict", reason, "differs in " + ", ".join(_differences(claim, holder)), holder)


def claims_of(epoch: int, partition: int, columns: Columns, rows: Integers) -> dict[bytes, Claim]:
    """What these admitted rows claim, by full key."""
    return dict(_claims(epoch, partition, columns, rows)) if len(rows) else {}


def _claims(epoch: int, partition: int, columns: Columns, rows: Integers) -> list[tuple[bytes, Claim]]:
    """What these rows of a range claim, or would."""
    key, tenant_id, kind, corrects = (
        texts.listed(texts.take(column, rows)) for column in (columns.key, columns.tenant_id, columns.kind, columns.corrects)
    )
    return [
        (one, Claim(epoch, partition, *rest))
        for one, *rest in zip(
            key,
            columns.offset[rows].tolist(),
            tenant_id,
            columns.micros[rows].tolist(),
            kind,
            corrects,
            columns.row_hash[rows].tolist(),
            columns.key_hash[rows].tolist(),
            strict=True,
        )
    ]


def delta_lines(events: Columns) -> tuple[DeltaLine, ...]:
    """What events add to the counters, exactly: sums are wider than the 64 bits of a column.

    The upper and the lower half of each quantity are summed by themselves, so neither can overflow: a quantity has less
    than 60 bits, a range fewer than 2**31 events.
    """
    if not len(events):
        return ()
    (tenant, tenants), (usage_type, types) = texts.coded(events.tenant_id), texts.coded(events.usage_type)
    days = events.occurred_ms // _DAY_MS
    first_day = int(days.min())
    days -= first_day
    line = (tenant * len(types) + usage_type) * (int(days.max()) + 1) + days
    order = line.argsort(kind="stable")
    ranked = line[order]
    begins = np.ones(len(events), dtype=bool)
    np.not_equal(ranked[1:], ranked[:-1], out=begins[1:])
    starts = begins.nonzero()[0]
    micros = events.micros[order]
    uppers = np.add.reduceat(micros >> _LOW_BITS, starts)
    lowers = np.add.reduceat(micros & ((1 << _LOW_BITS) - 1), starts)
    begun = starts.tolist()
    counts = map(operator.sub, [*begun[1:], len(events)], begun)
    firsts = order[starts]
    places = zip(tenant[firsts].tolist(), usage_type[firsts].tolist(), days[firsts].tolist(), strict=True)
    lines = [
        DeltaLine(tenants[at], types[of], utc_day((first_day + day) * _DAY_MS), Micros((upper << _LOW_BITS) + lower), count)
        for (at, of, day), upper, lower, count in zip(places, uppers.tolist(), lowers.tolist(), counts, strict=True)
    ]
    lines.sort(key=operator.attrgetter("tenant_id", "usage_type", "day"))
    return tuple(lines)


def _distinct(sorted_hashes: Hashes) -> Hashes:
    """Each once."""
    first = np.ones(len(sorted_hashes), dtype=bool)
    np.not_equal(sorted_hashes[1:], sorted_hashes[:-1], out=first[1:])
    return sorted_hashes[first]


def _differences(claim: Claim, holder: Claim) -> list[str]:
    """What makes a record a conflict with the admitted row, by the names on the wire."""
    names = ("tenantId", "quantity", "kind", "corrects")
    return [name for name, mine, theirs in zip(names, claim.content, holder.content, strict=True) if mine != theirs]
