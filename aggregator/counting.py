"""Counting: deltas into Postgres, in the transaction that moves their fences.

For each delta, by its position against the fence: counted already, skip; continues the fence, add its lines; overlaps or
leaves a gap, recompute [fence, to) from ClickHouse. Several deltas share one transaction, in which each counter is written
once: the more ranges wait, the fewer rows an event costs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import psycopg
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from metering.counters import Sums
from metering.fence import FenceAction, FiguresDisagree, action, check_continues, explains
from metering.line_columns import decode
from meterline_schemas.delta import Delta, DeltaLine, Figures
from runtime import metrics
from runtime.crash import crash_point
from runtime.exits import Exit, MeterlineExit
from runtime.life import Backoff
from store import event_log
from store.fences import Fence, add_sums, lock_fences, move_fence, note_repair, read_fences

logger = logging.getLogger(__name__)

COUNTERS_MAX = 500_000
"""Counters from which on a transaction takes no more deltas; it has no more than twice as many and those of one delta: five to
ten seconds of writing, for which whoever wants a fence waits."""

T = TypeVar("T")
Lane: TypeAlias = tuple[int, int]
"""Epoch and partition."""


class NotExplained(Exception):
    """ClickHouse does not hold what the figures say, yet or at all; nothing was counted."""


@dataclass(frozen=True)
class Target:
    """A position that counting may be moved to, with the cumulative figures there."""

    epoch: int
    partition: int
    to_offset: int
    rules_version: int
    figures: Figures


class Counting:
    """Counts on one connection; for one thread. Every method may block while a store is away."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        clickhouse: Callable[[], Client],
        give_up_s: float,
        stop: threading.Event,
    ) -> None:
        self._connect, self._clickhouse = connect, clickhouse
        self._give_up_s, self._stop = give_up_s, stop
        self._connection: psycopg.Connection[Any] | None = None
        self._seen: dict[Lane, Fence] = {}
        """The fences as they were last seen; another process may have moved them since."""
        self.problems: dict[str, str] = {}
        """What is wrong with a dependency while a batch is repeated, for /ready."""

    def count(self, values: Sequence[bytes | None]) -> None:
        """Counts every delta among the records' values, or raises MeterlineExit; retries in place meanwhile.

        Repeating it changes nothing. Values are decoded one by one as they are summed: a full batch of deltas decoded would
        not fit into memory.
        """
        done = 0
        while done < len(values):
            done += self._until_done(partial(self._count, values[done:]))

    def repair(self, target: Target, cause: str) -> bool:
        """Counts [fence, target) from ClickHouse where the fence is still below; False when it is not.

        Tries once. Raises NotExplained, or what an absent store raises.
        """

        def recount(connection: psycopg.Connection[Any]) -> bool:
            fence = lock_fences(connection, [(target.epoch, target.partition)]).get((target.epoch, target.partition))
            if fence is None or fence.next_offset >= target.to_offset:
                return False
            addition = _Addition()
            addition.recomputed(fence, target, self._recomputed(fence, target, cause), cause)
            addition.write(connection)
            return True

        return self._in_transaction(recount)

    def close(self) -> None:
        """Gives the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- one transaction -----------------------------------------------------------------------------------------

    def _count(self, values: Sequence[bytes | None]) -> int:
        """Counts the first of them, as many as one transaction takes, and says how many these are.

        They are summed before any fence is locked, against the fences as they were last seen; where the locked ones turn out
        to be others, they are summed again.
        """
        began = time.monotonic()
        addition = self._addition(values, self._last_seen)

        def write(connection: psycopg.Connection[Any]) -> _Addition:
            locked = lock_fences(connection, addition.assumed)
            right = addition
            if any(locked.get(lane) != fence for lane, fence in addition.assumed.items()):
                right = self._addition(values[: addition.values], locked.get)
            right.write(connection)
            crash_point("aggregator.before_commit")
            return right

        if addition.assumed:
            addition = self._in_transaction(write)
            crash_point("aggregator.after_commit")
            self._seen |= addition.moved
        metrics.COUNT_SECONDS.observe(time.monotonic() - began)
        for outcome, times in addition.outcomes.items():
            metrics.DELTAS.labels(outcome).inc(times)
        return addition.values

    def _last_seen(self, lane: Lane) -> Fence | None:
        if lane not in self._seen:
            found = self._in_transaction(read_fences)
            self._seen = {(fence.epoch, fence.partition): fence for fence in found}
        return self._seen.get(lane)

    def _addition(self, values: Sequence[bytes | None], fence_of: Callable[[Lane], Fence | None]) -> _Addition:
        """What the values come to where the fences stand so; as many of them as a transaction takes."""
        addition = _Addition()
        for value in values:
            delta = _readable(value)
            addition.values += 1
            if delta is None:
                addition.outcomes["unreadable"] += 1
                continue
            lane = (delta.epoch, delta.partition)
            if lane not in addition.assumed:
                addition.assumed[lane] = fence_of(lane)
            fence = addition.moved.get(lane) or addition.assumed[lane]
            if fence is None:
                # Never one of ours: an epoch's fence rows stand before its first delta can be made.
                addition.outcomes["foreign"] += 1
                logger.error(
                    "a delta of an epoch and partition without a fence; passed over. Check METERLINE_TOPIC_DELTAS",
                    extra={"epoch": delta.epoch, "partition": delta.partition, "to_offset": delta.to_offset},
                )
                continue
            self._add(addition, delta, fence)
            if addition.sums.reach(COUNTERS_MAX):
                break
        return addition

    def _add(self, addition: _Addition, delta: Delta, fence: Fence) -> None:
        todo = action(delta, fence.next_offset)
        if todo is FenceAction.SKIP:
            addition.outcomes["skipped"] += 1
            return
        target = Target(delta.epoch, delta.partition, delta.to_offset, delta.rules_version, delta.cumulative)
        cause = f"the delta [{delta.from_offset}, {delta.to_offset}) does not continue the fence at {fence.next_offset}"
        if todo is FenceAction.ADD:
            try:
                check_continues(delta, fence.figures)
            except FiguresDisagree as error:
                cause = str(error)
            else:
                addition.added(fence, target, delta.lines)
                return
        addition.recomputed(fence, target, self._recomputed(fence, target, cause), cause)

    def _recomputed(self, fence: Fence, target: Target, cause: str) -> tuple[DeltaLine, ...]:
        client = self._clickhouse()
        try:
            found = event_log.recompute(client, fence.epoch, fence.partition, fence.next_offset, target.to_offset)
        finally:
            client.close()
        if not explains(found.events, found.hash_sum, fence.figures, target.figures):
            raise NotExplained(
                f"epoch {fence.epoch} partition {fence.partition} [{fence.next_offset}, {target.to_offset}): ClickHouse holds "
                f"{found.events} rows there, the figures say {target.figures.admitted - fence.figures.admitted} ({cause})"
            )
        logger.warning("a range is counted from ClickHouse", extra={"cause": cause, "events": found.events})
        return found.lines

    # -- patience ------------------------------------------------------------------------------------------------

    def _in_transaction(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        connection = self._connection
        try:
            with connection.transaction():
                result = work(connection)
        except psycopg.Error:
            connection.close()
            raise
        return result

    def _until_done(self, call: Callable[[], T]) -> T:
        began, backoff = time.monotonic(), Backoff()
        while True:
            try:
                done = call()
            except (psycopg.Error, ClickHouseError, HTTPError, OSError, NotExplained) as error:
                unexplained = isinstance(error, NotExplained)
                dependency = "postgres" if isinstance(error, psycopg.Error) else "clickhouse"
                self.problems[dependency] = str(error)
                metrics.RETRIES.labels("aggregate", dependency).inc()
                if self._stop.is_set() or time.monotonic() - began > self._give_up_s:
                    raise MeterlineExit(
                        Exit.FENCE_MISMATCH if unexplained else Exit.UNREACHABLE,
                        f"a delta could not be counted: {error}"
                        + ("; see docs/operations.md, 'A fence that does not fit'" if unexplained else ""),
                    ) from error
                logger.warning("counting failed; repeated as it is", extra={"dependency": dependency, "problem": str(error)})
                self._stop.wait(backoff.wait_s())
            else:
                self.problems.clear()
                return done


class _Addition:
    """What one transaction adds to the counters, and where it moves the fences."""

    def __init__(self) -> None:
        self.values = 0
        """Records that it is made of."""
        self.assumed: dict[Lane, Fence | None] = {}
        """The fences that it is right for."""
        self.moved: dict[Lane, Fence] = {}
        self.sums = Sums()
        self.outcomes: Counter[str] = Counter()
        self._repairs: list[tuple[Fence, int, str]] = []

    def added(self, fence: Fence, target: Target, lines: Iterable[DeltaLine]) -> None:
        """[fence, target) by its delta."""
        self._move(fence, target, lines)
        self.outcomes["added"] += 1

    def recomputed(self, fence: Fence, target: Target, lines: Iterable[DeltaLine], cause: str) -> None:
        """[fence, target) from ClickHouse."""
        self._move(fence, target, lines)
        self._repairs.append((fence, target.to_offset, cause))
        self.outcomes["recomputed"] += 1

    def _move(self, fence: Fence, target: Target, lines: Iterable[DeltaLine]) -> None:
        self.sums.add(lines)
        self.moved[fence.epoch, fence.partition] = replace(
            fence, next_offset=target.to_offset, rules_version=target.rules_version, figures=target.figures
        )

    def write(self, connection: psycopg.Connection[Any]) -> None:
        """In the transaction that has locked the fences."""
        for fence, to_offset, cause in self._repairs:
            note_repair(connection, fence, to_offset, cause)
        add_sums(connection, self.sums)
        for _, fence in sorted(self.moved.items()):
            move_fence(connection, fence)


def _readable(value: bytes | None) -> Delta | None:
    """A record's delta; None for one that is none, whose range the next delta or the reconciler counts."""
    try:
        return decode(value or b"")
    except Exception as error:  # noqa: BLE001 - nothing may leave the batch: it would be acknowledged with its readable deltas
        logger.error("a record of the deltas topic is no delta; passed over", extra={"problem": str(error)})
        return None
