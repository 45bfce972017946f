"""The deciding half of the range chain: from waiting records to a cycle of decided ranges.

Owns the lanes; only its thread changes C and P, and only between ranges.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from consumers.lane import Lane
from consumers.storing import Cycle
from metering import texts
from metering.index import Hashes
from metering.pseudonyms import Asked, recognised
from metering.ranges import Claim, Decided, decide
from metering.ranked import Ranked
from metering.reading import Readings, read
from metering.recent import Recent
from metering.records import Integers, shorter
from metering.suspicion import Suspicion, beyond, lacking
from meterline_schemas.rules import RULES, Rules
from runtime import metrics
from runtime.exits import Exit, MeterlineExit
from store import event_log
from store.epochs import ENDED

logger = logging.getLogger(__name__)

Lacking = Callable[[Mapping[bytes, Claim]], list[int]]
"""Tells of fetched rows which suspected hashes they do not show in full."""

Confirm = Callable[[Hashes, Lacking], dict[bytes, Claim]]
"""Fetches the admitted rows of suspected hashes; returns only what lacks nothing, or raises MeterlineExit."""

RulesChanges = Mapping[int, Sequence[tuple[int, int]]]
"""Partition -> (from_offset, rules version), ascending; ENDED in the place of a version where the epoch ends."""

_TRACED_LINES_MAX = 20


Recognise = Callable[[Mapping[bytes, Claim], Iterable[Asked]], dict[bytes, Claim]]
"""Adds the claims of forgotten rows under the keys that the records ask with."""

_WITHOUT_A_KEY: Recognise = partial(recognised, pseudonyms=None)


def _nothing() -> None: ...


class Decider:
    """Turns the lanes' waiting records into cycles. `between` is called often while it does: commits must not wait."""

    def __init__(
        self,
        lanes: dict[int, Lane],
        partitions: int,
        delta_bytes_max: int,
        confirm: Confirm,
        between: Callable[[], None] = _nothing,
        recognise: Recognise = _WITHOUT_A_KEY,
        recent_events_max: int = 0,
    ) -> None:
        self.lanes = lanes
        self._recent = Recent(recent_events_max)
        self._partitions, self._delta_bytes_max = partitions, delta_bytes_max
        self._confirm, self._between, self._recognise = confirm, between, recognise

    def acknowledge(self, cycles: Iterable[Cycle]) -> None:
        """Moves committed ranges from P to C, and keeps them at hand for a while."""
        for cycle in cycles:
            for decided in cycle.ranges:
                self.lanes[decided.span.partition].acknowledged(decided)
                self._recent.add(decided)
        metrics.INDEX_KEYS.set(sum(len(lane.committed_index) for lane in self.lanes.values()))

    def cycle(self, changes: RulesChanges) -> Cycle | None:
        """Decides one range of each lane that has something; None when none has.

        Raises MeterlineExit when this build lacks the rules in force.
        """
        work: list[tuple[Lane, Rules, Readings]] = []
        for partition, lane in sorted(self.lanes.items()):
            if any(version == ENDED and lane.next_offset >= start for start, version in changes[partition]):
                # Past the epoch's end there are no verdicts; what lies there is forwarded.
                lane.drop_waiting()
                continue
            span = lane.span([offset for offset, _ in changes[partition]])
            if span is not None:
                rules = _in_force(changes[partition], span.from_offset, partition)
                work.append((lane, rules, read(span, rules, self._partitions, self._between)))
        if not work:
            return None
        looked = [lane.suspects(readings, self._partitions, self._at_hand(lane)) for lane, _, readings in work]
        confirmed = self._confirmed([suspicion for suspicion, _ in looked], work)
        ranges = []
        for (lane, rules, readings), (_, repeats) in zip(work, looked, strict=True):
            ranges.append(self._bounded(lane, rules, readings, confirmed, repeats))
            self._between()
        for (lane, _, _), decided in zip(work, ranges, strict=True):
            lane.decided(decided)
        _log_traced(ranges)
        return Cycle(tuple(ranges), event_log.admitted_rows(ranges), event_log.reject_rows(ranges))

    def _at_hand(self, lane: Lane) -> Sequence[Ranked]:
        return self._recent.of(lane.epoch, lane.partition)

    def _confirmed(self, suspicions: list[Suspicion], work: list[tuple[Lane, Rules, Readings]]) -> dict[bytes, Claim]:
        """The admitted rows of what is suspected: those that are at hand, and of what these do not settle, ClickHouse's."""
        suspected = _hashes(suspicions)
        at_hand = self._recent.claims(suspected)
        suspicions = beyond(suspicions, at_hand) if at_hand else suspicions
        wanted = _hashes(suspicions)
        metrics.SUSPECTS.labels("recent").inc(len(suspected) - len(wanted))
        metrics.SUSPECTS.labels("clickhouse").inc(len(wanted))
        if not len(wanted):
            return at_hand
        confirmed = self._confirm(wanted, partial(lacking, suspicions))
        if confirmed:
            confirmed = self._recognise(confirmed, _asked((readings for _, _, readings in work), wanted))
        return {**confirmed, **at_hand}

    def _bounded(
        self, lane: Lane, rules: Rules, readings: Readings, confirmed: Mapping[bytes, Claim], repeats: Integers
    ) -> Decided:
        """The range, cut shorter until its delta fits one record; the rest waits for the next cycle."""
        while True:
            decided = decide(readings, rules, lane.pending, confirmed, lane.figures, repeats)
            size, records = len(decided.announcement), len(readings)
            if size <= self._delta_bytes_max or records <= 1:
                metrics.SUSPECTS.labels("repeated").inc(int((repeats < len(readings.columns)).sum()))
                return decided
            readings = readings.within(shorter(readings.span, max(1, records * self._delta_bytes_max // size * 9 // 10)))


def _hashes(suspicions: Sequence[Suspicion]) -> Hashes:
    """All that is asked about, each once."""
    return np.unique(np.concatenate([suspicion.hashes for suspicion in suspicions]))


def _asked(work: Iterable[Readings], hashes: Hashes) -> Iterator[Asked]:
    """The records with one of these hashes; made only when they are looked at."""
    for readings in work:
        columns = readings.columns
        rows = columns.take(np.isin(columns.key_hash, hashes).nonzero()[0])
        names = (texts.listed(column) for column in (rows.key, rows.tenant_id, rows.corrects))
        for key, tenant_id, corrects in zip(*names, strict=True):
            yield Asked(key, tenant_id, corrects)


def _in_force(changes: Sequence[tuple[int, int]], offset: int, partition: int) -> Rules:
    version = max((start, version) for start, version in changes if start <= offset)[1]
    rules = RULES.get(version)
    if rules is None:
        raise MeterlineExit(
            Exit.RULES_UNKNOWN,
            f"partition {partition} is decided by rules version {version} from offset {offset} on; this build knows "
            f"{sorted(RULES)}: deploy a build that knows it",
        )
    return rules


def _log_traced(ranges: Iterable[Decided]) -> None:
    """One line for each record that carries a trace, so that a request can be followed here; bounded a cycle."""
    left = _TRACED_LINES_MAX
    for decided in ranges:
        records, rejects, admitted = decided.span.records, decided.rejects, decided.admitted.offset
        verdicts = {reject.reading.record.offset: reject.verdict for reject in rejects}
        for index in records.with_unusual_headers():
            trace = next((value for name, value in records.headers[index] if name == "traceparent"), None)
            if trace is None:
                continue
            offset = int(records.offsets[index])
            verdict = verdicts.get(offset, "duplicate")  # type: ignore[call-overload]
            if offset in admitted[np.searchsorted(admitted, offset) :][:1]:
                verdict = "admitted"
            position = f"{decided.span.epoch}/{decided.span.partition}/{offset}"
            logger.info(
                "event decided",
                extra={"verdict": verdict, "position": position, "traceparent": trace.decode("ascii", errors="replace")},
            )
            left -= 1
            if left == 0:
                return
