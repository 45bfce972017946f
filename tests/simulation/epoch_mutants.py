"""Deliberate bugs in the way from one epoch to the next; see `mutants`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY, patch

import consumers.following
import consumers.forwarding
import metering.reading
from consumers.assignment import Assigning
from consumers.following import Decided
from consumers.forwarding import Forwarded
from metering.index import CommittedIndex
from store.epochs import ENDED, Epoch
from store.fences import Fence
from tests.simulation.forwarder import SteppedForwarder
from tests.simulation.member import Member
from tests.simulation.violation import Crash

Mutant = AbstractContextManager[object]


def next_epoch_at_once() -> Mutant:
    """The next epoch is taken up before every partition of the one before has committed its end."""

    def at_once(epoch: Epoch, committed: Mapping[int, tuple[int, str]], fences: Iterable[Fence]) -> Decided | None:
        if epoch.ends is None:
            return None
        found = sorted(fences, key=lambda fence: fence.partition)
        reached = replace(epoch, ends=tuple(fence.next_offset for fence in found))
        return Decided(reached, tuple(fence.figures for fence in found))

    return patch.object(consumers.following, "decided_to_its_end", at_once)


def older_keys_left_out() -> Mutant:
    """The index of a new epoch knows nothing of the older ones."""

    def nothing(self: Assigning, wanted: Sequence[int]) -> dict[int, CommittedIndex]:
        return {partition: CommittedIndex() for partition in wanted}

    return patch.object(Assigning, "_inherited_keys", nothing)


def older_keys_not_compared() -> Mutant:
    """What ClickHouse shows of the older epochs is taken as all that there is."""
    right = Assigning._inherited_keys

    def as_shown(self: Assigning, wanted: Sequence[int]) -> dict[int, CommittedIndex]:
        figures: Any = SimpleNamespace(admitted=ANY, hash_sum=ANY)
        taken = replace(self, inherited=[replace(older, figures=figures) for older in self.inherited])
        return right(taken, wanted)

    return patch.object(Assigning, "_inherited_keys", as_shown)


def decided_past_the_end() -> Mutant:
    """The end of an epoch is no border: what lies past it is decided, and forwarded."""
    right = Member.rules_changes

    def endless(self: Member) -> dict[int, list[tuple[int, int]]]:
        return {partition: [one for one in found if one[1] != ENDED] for partition, found in right(self).items()}

    return patch.object(Member, "rules_changes", endless)


def late_records_left_behind() -> Mutant:
    """What reaches the old topic late is passed over."""

    def nothing(self: SteppedForwarder, topic: str, records: Sequence[Forwarded]) -> None: ...

    return patch.object(SteppedForwarder, "_send", nothing)


def forwarding_not_awaited() -> Mutant:
    """The position is noted although not every record was acknowledged."""
    right = SteppedForwarder._send

    def once(self: SteppedForwarder, topic: str, records: Sequence[Forwarded]) -> None:
        with suppress(Crash):
            right(self, topic, records)

    return patch.object(SteppedForwarder, "_send", once)


def ingest_time_forgotten() -> Mutant:
    """A forwarded record is taken for one that was sent when it was forwarded."""
    return patch.object(metering.reading, "ingested_ms", lambda epoch, headers, appended_ms, rules: appended_ms)


EPOCH_MUTANTS = (
    next_epoch_at_once,
    older_keys_left_out,
    older_keys_not_compared,
    decided_past_the_end,
    late_records_left_behind,
    forwarding_not_awaited,
    ingest_time_forgotten,
)
