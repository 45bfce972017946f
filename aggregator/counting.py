"""Counting: deltas into Postgres, in the transaction that moves their fences.

For each delta, by its position against the locked fence row: counted already, skip; continues the fence, add its
lines; overlaps or leaves a gap, recompute [fence, to) from ClickHouse. Several deltas share one transaction.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import psycopg
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from metering.fence import FenceAction, FiguresDisagree, action, check_continues, explains
from meterline_schemas.delta import Delta, DeltaLine, Figures
from runtime import metrics
from runtime.crash import crash_point
from runtime.exits import Exit, MeterlineExit
from runtime.life import Backoff
from store import event_log
from store.fences import Fence, add_lines, lock_fences, move_fence, note_repair

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
        self.problems: dict[str, str] = {}
        """What is wrong with a dependency while a batch is repeated, for /ready."""

    def count(self, deltas: Iterable[Delta]) -> None:
        """Counts every delta, or raises MeterlineExit; retries in place meanwhile. Repeating it changes nothing."""
        batch = list(deltas)
        self._until_done(lambda: self._in_transaction(lambda connection: self._count(connection, batch)))

    def repair(self, target: Target, cause: str) -> bool:
        """Counts [fence, target) from ClickHouse where the fence is still below; False when it is not.

        Tries once. Raises NotExplained, or what an absent store raises.
        """

        def recount(connection: psycopg.Connection[Any]) -> bool:
            fence = lock_fences(connection, [(target.epoch, target.partition)]).get((target.epoch, target.partition))
            if fence is None or fence.next_offset >= target.to_offset:
                return False
            add_lines(connection, self._recomputed(connection, fence, target, cause))
            move_fence(connection, _moved(fence, target))
            return True

        return self._in_transaction(recount)

    def close(self) -> None:
        """Gives the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- one transaction -----------------------------------------------------------------------------------------

    def _count(self, connection: psycopg.Connection[Any], batch: list[Delta]) -> None:
        began = time.monotonic()
        fences = lock_fences(connection, ((delta.epoch, delta.partition) for delta in batch))
        lines: list[DeltaLine] = []
        moved: dict[tuple[int, int], Fence] = {}
        for delta in batch:
            key = (delta.epoch, delta.partition)
            fence = fences.get(key)
            if fence is None:
                # Never one of ours: an epoch's fence rows stand before its first delta can be made.
                metrics.DELTAS.labels("foreign").inc()
                logger.error(
                    "a delta of an epoch and partition without a fence; passed over. Check METERLINE_TOPIC_DELTAS",
                    extra={"epoch": delta.epoch, "partition": delta.partition, "to_offset": delta.to_offset},
                )
                continue
            added = self._lines(connection, delta, fence)
            if added is not None:
                lines.extend(added)
                target = Target(delta.epoch, delta.partition, delta.to_offset, delta.rules_version, delta.cumulative)
                fences[key] = moved[key] = _moved(fence, target)
        add_lines(connection, lines)
        for _, fence in sorted(moved.items()):
            move_fence(connection, fence)
        crash_point("aggregator.before_commit")
        metrics.COUNT_SECONDS.observe(time.monotonic() - began)

    def _lines(self, connection: psycopg.Connection[Any], delta: Delta, fence: Fence) -> Iterable[DeltaLine] | None:
        """What the delta adds; None when it is counted already."""
        todo = action(delta, fence.next_offset)
        if todo is FenceAction.SKIP:
            metrics.DELTAS.labels("skipped").inc()
            return None
        cause = f"the delta [{delta.from_offset}, {delta.to_offset}) does not continue the fence at {fence.next_offset}"
        if todo is FenceAction.ADD:
            try:
                check_continues(delta, fence.figures)
            except FiguresDisagree as error:
                cause = str(error)
            else:
                metrics.DELTAS.labels("added").inc()
                return delta.lines
        target = Target(delta.epoch, delta.partition, delta.to_offset, delta.rules_version, delta.cumulative)
        return self._recomputed(connection, fence, target, cause)

    def _recomputed(self, connection: psycopg.Connection[Any], fence: Fence, target: Target, cause: str) -> tuple[DeltaLine, ...]:
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
        note_repair(connection, fence, target.to_offset, cause)
        metrics.DELTAS.labels("recomputed").inc()
        metrics.REPAIRS.inc()
        logger.warning("a range was counted from ClickHouse", extra={"cause": cause, "events": found.events})
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
        crash_point("aggregator.after_commit")
        return result

    def _until_done(self, call: Callable[[], None]) -> None:
        began, backoff = time.monotonic(), Backoff()
        while True:
            try:
                call()
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
                return


def _moved(fence: Fence, target: Target) -> Fence:
    return replace(fence, next_offset=target.to_offset, rules_version=target.rules_version, figures=target.figures)
