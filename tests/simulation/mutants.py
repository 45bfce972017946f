"""Deliberate bugs, one for each sentence of `docs/exactness.md` that somebody might take for caution.

Each is applied to the product's names for the time of a `with`. The seeds must find every one of them: a simulation that
passes with a sentence left out proves nothing about the sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import aggregator.counting
import consumers.assignment
import consumers.deciding
import consumers.lane
import metering.ranges
import metering.ranked
from consumers.assignment import Start, start_of
from consumers.deciding import Decider
from consumers.lane import Lane
from consumers.patience import Retriable
from consumers.storing import Cycle, Storer
from metering.columns import Columns
from metering.fence import FenceAction
from metering.index import Hashes
from metering.ranges import Claim, Decided, Pending
from metering.reading import Readings
from metering.records import Integers
from metering.suspicion import Suspicion
from metering.texts import listed
from meterline_schemas.delta import CommitNote, Delta, DeltaLine, Figures, parse_commit
from meterline_schemas.rules import Rules
from meterline_schemas.types import Epoch, Micros, Offset, TenantId, UsageType
from store.event_log import Held
from store.fences import Fence
from tests.simulation import ledger
from tests.simulation.epoch_mutants import EPOCH_MUTANTS
from tests.simulation.member import Member

Mutant = AbstractContextManager[object]


def no_exact_confirm() -> Mutant:
    """A hash that C holds is taken for the key."""
    exact = metering.ranges.decide

    def by_hash(readings: Readings, rules: Rules, pending: Pending, confirmed: Mapping[bytes, Claim], *more: Any) -> Decided:
        holders = {claim.key_hash: claim for claim in confirmed.values()}
        rows = zip(listed(readings.columns.key), readings.columns.key_hash.tolist(), strict=True)
        return exact(readings, rules, pending, {key: holders[hashed] for key, hashed in rows if hashed in holders}, *more)

    return patch.object(consumers.deciding, "decide", by_hash)


@contextmanager
def equal_hashes_not_compared() -> Iterator[None]:
    """Within a range and in P, a hash is taken for the key."""
    exact, by_key = metering.ranges.decide, metering.ranges._claims

    def claims(epoch: int, partition: int, columns: Columns, rows: Integers) -> list[tuple[bytes, Claim]]:
        return [(b"%d" % claim.key_hash, claim) for _, claim in by_key(epoch, partition, columns, rows)]

    def by_hash(readings: Readings, rules: Rules, pending: Pending, confirmed: Mapping[bytes, Claim], *more: Any) -> Decided:
        return exact(readings, rules, pending, {b"%d" % claim.key_hash: claim for claim in confirmed.values()}, *more)

    with patch.object(metering.ranges, "_claims", claims), patch.object(consumers.deciding, "decide", by_hash):
        yield


def pending_not_asked() -> Mutant:
    """What stands in P meets nobody."""
    return patch.object(Pending, "hits", lambda self, hashes: np.zeros(len(hashes), dtype=bool))


def self_recognition() -> Mutant:
    """A row confirms the record that it was made of: the position is not compared."""
    return patch.object(Claim, "position", (0, -1))


def commit_before_announce() -> Mutant:
    """Step 4 before step 3."""
    right = Storer._through

    def swapped(self: Any, cycle: Cycle) -> None:
        right(self, cycle)
        steps = list(self.ports.steps)
        order = {"insert": 0, "commit": 1, "announce": 2, "fail": 3}
        self.ports.steps.clear()
        self.ports.steps.extend(sorted(steps, key=lambda step: order[step.kind]))

    return patch.object(Storer, "_through", swapped)


@contextmanager
def no_fence() -> Iterator[None]:
    """Every delta is added."""

    def add(delta: Delta, next_offset: int) -> FenceAction:
        return FenceAction.SKIP if delta.to_offset < next_offset else FenceAction.ADD

    def anything(delta: Delta, fence: Figures) -> None: ...

    with patch.multiple(aggregator.counting, action=add, check_continues=anything):
        yield


def insert_not_awaited() -> Mutant:
    """The chain goes on although the insert failed."""
    awaited = Storer._until_done

    def once(self: Any, dependency: str, step: str, call: Callable[[], None]) -> None:
        if step != "store":
            return awaited(self, dependency, step, call)
        with suppress(Retriable):
            call()
        return None

    return patch.object(Storer, "_until_done", once)


def committed_offset_read_twice() -> Mutant:
    """The index is built for one reading of the committed offset, and records are read from another."""
    right = Member.lanes

    def twice(self: Member, partitions: list[int]) -> dict[int, Lane]:
        lanes = right(self, partitions)
        self.world.stir(self)
        for partition, lane in lanes.items():
            found = self.world.stores.group.committed[self.epoch].get(partition)
            again = start_of(self.epoch, found, self.world.stores.ledger.fences[self.epoch, partition])
            lane.next_offset, lane.rules_version, lane.figures = again.offset, again.rules_version, again.figures
        return lanes

    return patch.object(Member, "lanes", twice)


def rebuild_not_checked() -> Mutant:
    """The index is taken as ClickHouse shows it."""
    return patch.object(Held, "matches", lambda self, figures: True)


class _Leftover(Pending):
    """P with the claims of an earlier P in it."""

    def __init__(self, earlier: Pending) -> None:
        super().__init__()
        self._earlier = earlier

    def hits(self, hashes: Hashes) -> NDArray[np.bool_]:
        return super().hits(hashes) | self._earlier.hits(hashes)

    def claims(self, hashes: Hashes) -> dict[bytes, Claim]:
        return self._earlier.claims(hashes) | super().claims(hashes)


def pending_kept_on_failure() -> Mutant:
    """After a failure that cannot be retried the process goes on from the committed offset, with P as it was."""

    def go_on(self: Member) -> None:
        assert self.decider is not None
        earlier = {partition: lane.pending for partition, lane in self.decider.lanes.items()}
        self._forget()
        self.take()
        if self.decider is not None:
            for partition, lane in self.decider.lanes.items():
                if partition in earlier:
                    lane.pending = _Leftover(earlier[partition])

    return patch.object(Member, "fail", go_on)


def dropped_before_added() -> Mutant:
    """A range leaves P at once and comes to C a turn later."""

    def hand_over(self: Any, cycles: Iterable[Cycle]) -> None:
        for lane, hashes in self.__dict__.pop("on_their_way", []):
            lane.committed_index.add(hashes)
        late: list[tuple[Lane, Hashes]] = self.__dict__.setdefault("on_their_way", [])
        nowhere = metering.index.CommittedIndex()
        for cycle in cycles:
            for decided in cycle.ranges:
                lane = self.lanes[decided.span.partition]
                lane.pending.acknowledge(decided, nowhere)
                lane.stored = decided.span.to_offset
                late.append((lane, decided.ranked))

    return patch.object(Decider, "acknowledge", hand_over)


def handed_over_by_the_storing_thread() -> Mutant:
    """C and P change while the deciding thread looks for suspects and fetches them."""
    right = Member.store

    def at_once(self: Member) -> None:
        right(self)
        if self.decider is not None and self.committed:
            committed, self.committed = self.committed, []
            self.decider.acknowledge(committed)

    return patch.object(Member, "store", at_once)


def straddling_range() -> Mutant:
    """A range goes on over a change of the rules."""
    return patch.object(consumers.lane, "cut_at", lambda span, offset: span)


def build_that_lacks_the_rules() -> Mutant:
    """A build decides by the newest rules that it has where it lacks those in force."""

    def newest(changes: Sequence[tuple[int, int]], offset: int, partition: int) -> Rules:
        version = max((start, version) for start, version in changes if start <= offset)[1]
        known: Mapping[int, Rules] = vars(consumers.deciding)["RULES"]
        return known.get(version) or known[max(known)]

    return patch.object(consumers.deciding, "_in_force", newest)


def suspect_without_a_row_is_new() -> Mutant:
    """A hash that C holds and ClickHouse does not show is no reason to wait."""
    return patch.object(Suspicion, "lacking", lambda self, claims: [])


def one_row_of_a_hash_is_enough() -> Mutant:
    """A read that shows any key of a suspected hash is taken to show all of them."""

    def none_found(self: Suspicion, claims: Mapping[bytes, Claim]) -> list[int]:
        found = {claim.key_hash for claim in claims.values()}
        return [hashed for hashed in self.hashes.tolist() if hashed not in found]

    return patch.object(Suspicion, "lacking", none_found)


def repeats_not_compared() -> Mutant:
    """A record is taken to repeat whichever row has its hash."""
    return patch.object(metering.ranked, "_same", lambda columns, rows, others, holders: np.ones(len(rows), dtype=bool))


def one_row_at_hand_is_enough() -> Mutant:
    """A hash of which any key is at hand is not asked about."""

    def beyond(self: Suspicion, claims: Mapping[bytes, Claim]) -> Suspicion:
        found = {claim.key_hash for claim in claims.values()}
        return replace(self, hashes=np.array([hashed for hashed in self.hashes.tolist() if hashed not in found], dtype=np.uint64))

    return patch.object(Suspicion, "beyond", beyond)


def rules_read_before_the_range() -> Mutant:
    """The rules are those of the turn before."""
    right = Member.rules_changes

    def earlier(self: Any) -> Any:
        now = right(self)
        kept = self.__dict__.get("rules_of_the_turn_before", now)
        self.__dict__["rules_of_the_turn_before"] = now
        return kept

    return patch.object(Member, "rules_changes", earlier)


def lowered_offset_left_alone() -> Mutant:
    """An idle owner does not look at the group's offset."""
    return patch.object(Storer, "_restore_lowered_offsets", lambda self: None)


def note_trusted_beside_another_offset() -> Mutant:
    """A committed offset is taken with the figures of whatever note stands beside it."""
    right = consumers.assignment.start_of

    def trusting(epoch: int, committed: tuple[int, str] | None, fence: Fence) -> Start:
        start = right(epoch, committed, fence)
        return start if committed is None else replace(start, offset=Offset(committed[0]))

    return patch.object(consumers.assignment, "start_of", trusting)


def note_of_another_epoch_trusted() -> Mutant:
    """The epoch in a commit's note is not looked at."""

    def of_any_epoch(text: str) -> CommitNote:
        return replace(parse_commit(text), epoch=Epoch(1))

    return patch.object(consumers.assignment, "parse_commit", of_any_epoch)


def event_count_not_checked() -> Mutant:
    """A delta at the fence is added whatever its cumulative figures say."""
    return patch.object(aggregator.counting, "check_continues", lambda delta, fence: None)


@contextmanager
def fences_not_compared() -> Iterator[None]:
    """What was summed before the fences were locked is written whatever the locked ones say."""
    right = ledger.lock_fences

    def as_assumed(connection: Any, lanes: Any) -> Any:
        return lanes if isinstance(lanes, dict) else right(connection, lanes)

    with patch.object(aggregator.counting, "lock_fences", as_assumed):
        yield


def void_not_counted() -> Mutant:
    """Offsets without a record get no verdict."""
    right = metering.ranges.decide

    def without_void(*args: Any) -> Decided:
        decided = right(*args)
        before: Figures = args[-1]
        return replace(decided, delta=replace(decided.delta, cumulative=replace(decided.figures, void=before.void)))

    return patch.object(consumers.deciding, "decide", without_void)


def recompute_not_checked() -> Mutant:
    """A range is counted from ClickHouse as it shows it."""
    return patch.object(aggregator.counting, "explains", lambda events, hash_sum, fence, target: True)


def sums_in_int64() -> Mutant:
    """Quantities are summed whole, in the 64 bits of a column."""
    return patch.object(metering.ranges, "_LOW_BITS", 63)


def sums_in_float() -> Mutant:
    """Sums are floats for a moment."""

    def rounded(tenant_id: TenantId, usage_type: UsageType, day: str, quantity: int, events: int) -> DeltaLine:
        return DeltaLine(tenant_id, usage_type, day, Micros(int(float(quantity))), events)

    return patch.object(metering.ranges, "DeltaLine", rounded)


MUTANTS: Final[Mapping[str, Callable[[], Mutant]]] = MappingProxyType(
    {
        mutant.__name__: mutant
        for mutant in (
            no_exact_confirm,
            equal_hashes_not_compared,
            pending_not_asked,
            self_recognition,
            commit_before_announce,
            no_fence,
            insert_not_awaited,
            committed_offset_read_twice,
            rebuild_not_checked,
            pending_kept_on_failure,
            dropped_before_added,
            handed_over_by_the_storing_thread,
            straddling_range,
            build_that_lacks_the_rules,
            suspect_without_a_row_is_new,
            one_row_of_a_hash_is_enough,
            one_row_at_hand_is_enough,
            repeats_not_compared,
            rules_read_before_the_range,
            lowered_offset_left_alone,
            note_trusted_beside_another_offset,
            note_of_another_epoch_trusted,
            event_count_not_checked,
            fences_not_compared,
            void_not_counted,
            recompute_not_checked,
            sums_in_int64,
            sums_in_float,
            *EPOCH_MUTANTS,
        )
    }
)


def applied(name: str | None) -> Mutant:
    return nullcontext() if name is None else MUTANTS[name]()
