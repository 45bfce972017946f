"""The deciding half of the range chain: from waiting records to a cycle of decided ranges.

Owns the lanes; only its thread changes C and P, and only between ranges.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from consumers.lane import Lane
from consumers.storing import Cycle
from metering.index import Hashes
from metering.ranges import Claim, Decided, Reading, Span, decide, read, shorter, suspects
from meterline_schemas.delta import encode_delta
from meterline_schemas.key import key_hash
from meterline_schemas.rules import RULES, Rules
from runtime import metrics
from runtime.exits import Exit, MeterlineExit
from store import event_log
from store.epochs import ENDED

logger = logging.getLogger(__name__)

Confirm = Callable[[Hashes], dict[bytes, Claim]]
"""Fetches the admitted rows of suspected hashes; returns only when every hash was found, or raises MeterlineExit."""

RulesChanges = Mapping[int, Sequence[tuple[int, int]]]
"""Partition -> (from_offset, rules version), ascending; ENDED in the place of a version where the epoch ends."""

_TRACED_LINES_MAX = 20


def unfound(hashes: Hashes, claims: Iterable[bytes]) -> list[int]:
    """The suspected hashes of which ClickHouse returned no row: it lags behind what it acknowledged."""
    return [int(missing) for missing in np.setdiff1d(hashes, np.array([key_hash(key) for key in claims], dtype=np.uint64))]


class Decider:
    """Turns the lanes' waiting records into cycles."""

    def __init__(self, lanes: dict[int, Lane], partitions: int, delta_bytes_max: int, confirm: Confirm) -> None:
        self.lanes = lanes
        self._partitions, self._delta_bytes_max, self._confirm = partitions, delta_bytes_max, confirm

    def acknowledge(self, cycles: Iterable[Cycle]) -> None:
        """Moves committed ranges from P to C."""
        for cycle in cycles:
            for decided in cycle.ranges:
                lane = self.lanes[decided.span.partition]
                lane.pending.acknowledge(decided, lane.committed_index)
        metrics.INDEX_KEYS.set(sum(len(lane.committed_index) for lane in self.lanes.values()))

    def cycle(self, changes: RulesChanges) -> Cycle | None:
        """Decides one range of each lane that has something; None when none has.

        Raises MeterlineExit when this build lacks the rules in force.
        """
        work: list[tuple[Lane, Span, Rules, list[Reading]]] = []
        for partition, lane in sorted(self.lanes.items()):
            if any(version == ENDED and lane.next_offset >= start for start, version in changes[partition]):
                # Past the epoch's end there are no verdicts; what lies there is forwarded.
                lane.drop_waiting()
                continue
            span = lane.span([offset for offset, _ in changes[partition]])
            if span is not None:
                rules = _in_force(changes[partition], span.from_offset, partition)
                work.append((lane, span, rules, read(span, rules, self._partitions)))
        if not work:
            return None
        wanted = np.unique(
            np.concatenate([suspects(readings, lane.committed_index, lane.pending) for lane, _, _, readings in work])
        )
        metrics.SUSPECTS.inc(len(wanted))
        confirmed = self._confirm(wanted) if len(wanted) else {}
        ranges = tuple(self._bounded(lane, span, rules, readings, confirmed) for lane, span, rules, readings in work)
        for decided in ranges:
            self.lanes[decided.span.partition].decided(decided)
        _log_traced(ranges)
        return Cycle(ranges, event_log.admitted_rows(ranges), event_log.reject_rows(ranges))

    def _bounded(
        self, lane: Lane, span: Span, rules: Rules, readings: list[Reading], confirmed: Mapping[bytes, Claim]
    ) -> Decided:
        """The range, cut shorter until its delta fits one record; the rest waits for the next cycle."""
        while True:
            decided = decide(span, readings, rules, lane.pending, confirmed, lane.figures)
            size = len(encode_delta(decided.delta))
            if size <= self._delta_bytes_max or len(span.records) <= 1:
                return decided
            span = shorter(span, max(1, len(span.records) * self._delta_bytes_max // size * 9 // 10))
            readings = readings[: len(span.records)]


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
        verdicts = {reject.reading.record.offset: reject.verdict for reject in decided.rejects}
        admitted = {row.reading.record.offset for row in decided.admitted}
        for record in decided.span.records:
            trace = next((value for name, value in record.headers if name == "traceparent"), None)
            if trace is None:
                continue
            verdict = "admitted" if record.offset in admitted else verdicts.get(record.offset, "duplicate")
            position = f"{decided.span.epoch}/{decided.span.partition}/{record.offset}"
            logger.info(
                "event decided",
                extra={"verdict": verdict, "position": position, "traceparent": trace.decode("ascii", errors="replace")},
            )
            left -= 1
            if left == 0:
                return
