"""The storing half of the range chain, on a thread of its own: store, announce, commit, one cycle after the other.

1. Store the admitted rows of the cycle in one insert, and the rejects; the identical insert again until acknowledged.
2. Announce one delta a partition; again until the broker has acknowledged it.
3. Commit each range's end in the consumer group, with the cumulative figures as metadata.

Kafka's consumer lets one thread in at a time, and whoever polls keeps it: a commit made here would wait for seconds, and
for ever where the polling thread waits for this one. So the thread leaves its calls to the group with `serve`, which the
polling thread runs between two polls.

The order is the proof's. Cycle N+1 is not stored before N is committed. What cannot be retried ends the thread with
`failure` set: the deciding thread then drops all of P by leaving the process.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from consumers.patience import Retriable
from metering.ranges import Decided
from meterline_schemas.delta import Figures, encode_commit
from runtime import metrics
from runtime.crash import crash_point
from runtime.exits import Exit, MeterlineExit
from runtime.life import Backoff

logger = logging.getLogger(__name__)

T = TypeVar("T")

CYCLES_WAITING_MAX = 2
_IDLE_CHECK_S = 5.0
_SERVE_EVERY_S = 0.005
_services = metrics.BoundedNames(metrics.SERVICES_SHOWN_MAX)


@dataclass(frozen=True)
class Cycle:
    """One range of each partition that had records, and the rows they make together."""

    ranges: tuple[Decided, ...]
    admitted: pa.Table
    rejects: pa.Table


class RowStore(Protocol):
    """Where a cycle's rows go."""

    def insert(self, admitted: pa.Table, rejects: pa.Table) -> None:
        """Returns when all rows are durable. Raises Retriable; may have stored any part then."""


class DeltaLog(Protocol):
    """Where deltas are announced."""

    def announce(self, ranges: Sequence[Decided]) -> None:
        """Returns when the broker has acknowledged each. Raises Retriable; may have written any of them then."""


class Offsets(Protocol):
    """The consumer group's positions. Called by the thread that polls."""

    def commit(self, positions: Sequence[tuple[int, int, str]]) -> None:
        """Commits (partition, offset, metadata). Raises Retriable, or MeterlineExit when the partitions are another's."""

    def committed_notes(self, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        """The group's (offset, metadata) now. Raises Retriable."""


@dataclass(frozen=True)
class Committed:
    """What was committed last for a partition, to be committed again when the group forgets it."""

    offset: int
    metadata: str


def committed_at(epoch: int, offset: int, rules_version: int, figures: Figures) -> Committed:
    """A position with the note that makes it trusted."""
    return Committed(offset, encode_commit(epoch, offset, rules_version, figures))


class Storer:
    """Runs one thread from `start` to `finish` or `abandon`. `submit` blocks while two cycles wait.

    `taken` are the positions at which the partitions were taken: the group's offset may not fall below them either.
    """

    def __init__(
        self,
        rows: RowStore,
        deltas: DeltaLog,
        offsets: Offsets,
        give_up_s: float,
        clock: Callable[[], float],
        taken: Mapping[int, Committed],
    ) -> None:
        self._rows, self._deltas, self._offsets = rows, deltas, offsets
        self._give_up_s, self._clock = give_up_s, clock
        self._cycles: queue.Queue[Cycle | None] = queue.Queue(CYCLES_WAITING_MAX)
        self._acks: queue.SimpleQueue[Cycle] = queue.SimpleQueue()
        self._errands: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._submitted = self._finished = 0
        self._abandoned = threading.Event()
        self._last: dict[int, Committed] = dict(taken)
        self.failure: BaseException | None = None
        self.problems: dict[str, str] = {}
        """What is wrong with a dependency while a step is repeated, for /ready."""
        self._thread = threading.Thread(target=self._run, name="storing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, cycle: Cycle, stop: threading.Event) -> bool:
        """Hands a cycle over; serves while the queue is full. False when `stop` came first: the cycle was not taken.

        Raises the thread's failure.
        """
        while True:
            self.check()
            self.serve()
            try:
                self._cycles.put(cycle, timeout=_SERVE_EVERY_S)
            except queue.Full:
                if stop.is_set():
                    return False
                continue
            self._submitted += 1
            return True

    @property
    def busy(self) -> bool:
        """Whether a cycle handed over is not committed yet. For the thread that hands them over."""
        return self._submitted > self._finished

    def serve(self) -> None:
        """Makes the calls to the group that the thread waits for. By the thread that polls, often; waits for nothing else."""
        while True:
            try:
                errand, call = self._errands.get_nowait()
            except queue.Empty:
                return
            if errand.set_running_or_notify_cancel():
                try:
                    errand.set_result(call())
                except Exception as error:  # noqa: BLE001 - it belongs to the thread that waits for the call
                    errand.set_exception(error)

    def check(self) -> None:
        """Raises the failure that ended the thread, if one did."""
        if self.failure is not None:
            raise self.failure

    def acknowledged(self) -> list[Cycle]:
        """The cycles committed since the last call, oldest first. Does not block."""
        done = []
        while True:
            try:
                done.append(self._acks.get_nowait())
            except queue.Empty:
                return done

    def positions(self) -> dict[int, int]:
        """The offset committed last of each partition. For any thread."""
        return {partition: note.offset for partition, note in dict(self._last).items()}

    def finish(self, within_s: float) -> bool:
        """Lets the waiting cycles through, serving them, and ends the thread; False when `within_s` did not suffice."""
        deadline, asked = self._clock() + within_s, False
        while self._thread.is_alive() and self._clock() < deadline:
            self.serve()
            if not asked:
                with contextlib.suppress(queue.Full):
                    self._cycles.put_nowait(None)
                    asked = True
            self._thread.join(_SERVE_EVERY_S)
        return not self._thread.is_alive()

    def abandon(self, within_s: float) -> bool:
        """Ends the thread without another commit: the step under way ends, nothing follows it.

        False when that step did not end in time. It may still end later; whoever goes on beside it breaks the chain.
        """
        self._abandoned.set()
        with contextlib.suppress(queue.Full):
            self._cycles.put_nowait(None)  # an idle thread waits for a cycle; one with a full queue does not
        if self._thread.ident is not None:
            self._thread.join(within_s)
        return not self._thread.is_alive()

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._abandoned.is_set():
                try:
                    cycle = self._cycles.get(timeout=_IDLE_CHECK_S)
                except queue.Empty:
                    self._restore_lowered_offsets()
                    continue
                if cycle is None:
                    return
                self._through(cycle)
        except _Abandoned:
            logger.info("storing stopped: the partitions are given back")
        except BaseException as error:  # noqa: BLE001 - kept whole and raised by the deciding thread, which leaves
            self.failure = error

    def _through(self, cycle: Cycle) -> None:
        # 1. Store.
        self._until_done("clickhouse", "store", lambda: self._rows.insert(cycle.admitted, cycle.rejects))
        crash_point("consumer.stored")
        # 2. Announce.
        crash_point("consumer.announcing")
        self._until_done("kafka", "announce", lambda: self._deltas.announce(cycle.ranges))
        crash_point("consumer.announced")
        # 3. Commit.
        notes = {int(decided.span.partition): _note(decided) for decided in cycle.ranges}
        self._commit(notes)
        crash_point("consumer.committed")
        self._last.update(notes)
        self._acks.put(cycle)
        self._finished += 1
        _count(cycle)

    def _commit(self, notes: dict[int, Committed]) -> None:
        positions = [(partition, note.offset, note.metadata) for partition, note in sorted(notes.items())]
        self._until_done("kafka", "commit", lambda: self._by_the_polling_thread(lambda: self._offsets.commit(positions)))

    def _by_the_polling_thread(self, call: Callable[[], T]) -> T:
        """Waits until `serve` has made the call. Raises what the call raised, or _Abandoned when it was not begun by then."""
        errand: Future[T] = Future()
        self._errands.put((errand, call))
        while True:
            done, _ = wait([errand], timeout=0.05)
            if done:
                return errand.result()
            if self._abandoned.is_set() and errand.cancel():
                raise _Abandoned

    def _restore_lowered_offsets(self) -> None:
        """A late commit of an old owner may have lowered the group's offset; an idle owner puts it right.

        So it does with one of its own that has lost its note, which would not be trusted. A higher one is a newer owner's.
        """
        if not self._last:
            return
        try:
            group = self._by_the_polling_thread(lambda: self._offsets.committed_notes(self._last))
        except Retriable as error:
            logger.warning("the group's offsets cannot be read; asked again later", extra={"problem": str(error)})
            return
        lowered = {p: note for p, note in self._last.items() if _is_behind(group.get(p), note)}
        if lowered:
            logger.warning("the group's offsets were lowered; committing again", extra={"partitions": sorted(lowered)})
            self._commit(lowered)

    def _until_done(self, dependency: str, step: str, call: Callable[[], None]) -> None:
        began = self._clock()
        backoff = Backoff()
        while True:
            if self._abandoned.is_set():
                raise _Abandoned
            try:
                call()
            except Retriable as error:
                self.problems[dependency] = str(error)
                metrics.RETRIES.labels("consume", dependency).inc()
                away_s = self._clock() - began
                if away_s > self._give_up_s:
                    raise MeterlineExit(
                        Exit.UNREACHABLE, f"{dependency} did not take the {step} for {away_s:.0f} s: {error}"
                    ) from error
                wait_s = backoff.wait_s()
                logger.warning(
                    "%s failed; repeated as it is",
                    step,
                    extra={"dependency": dependency, "problem": str(error), "wait_s": wait_s},
                )
                self._abandoned.wait(wait_s)
            else:
                self.problems.pop(dependency, None)
                metrics.CYCLE_SECONDS.labels(step).observe(self._clock() - began)
                return


class _Abandoned(Exception):
    """The thread was told to stop between two steps."""


def _is_behind(group: tuple[int, str] | None, ours: Committed) -> bool:
    return group is None or group[0] < ours.offset or (group[0] == ours.offset and group[1] != ours.metadata)


def _note(decided: Decided) -> Committed:
    return committed_at(decided.span.epoch, decided.span.to_offset, decided.rules_version, decided.figures)


def _count(cycle: Cycle) -> None:
    for decided in cycle.ranges:
        span, lines = decided.span, decided.delta.lines
        conflicts = [reject for reject in decided.rejects if reject.verdict == "conflict"]
        invalid = sum(reject.verdict == "invalid" for reject in decided.rejects)
        records = len(span.records)
        metrics.VERDICTS.labels("admitted").inc(len(decided.admitted))
        metrics.VERDICTS.labels("conflict").inc(len(conflicts))
        metrics.VERDICTS.labels("invalid").inc(invalid)
        metrics.VERDICTS.labels("duplicate").inc(records - len(decided.admitted) - len(conflicts) - invalid)
        metrics.VERDICTS.labels("void").inc(span.to_offset - span.from_offset - records)
        for reject in conflicts:
            metrics.CONFLICTS.labels(_services.label(reject.reading.event.source_service)).inc()
        logger.debug(
            "range committed",
            extra={
                "range_id": f"{span.epoch}/{span.partition}/{span.from_offset}-{span.to_offset}",
                "admitted": len(decided.admitted),
                "rejects": len(decided.rejects),
                "lines": len(lines),
            },
        )
