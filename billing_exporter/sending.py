"""Sending: each due row to Stripe, `sending` committed before the call, its answer after it.

One row:

1. claim it with a lease, with the other due rows of its tenant;
2. compare ClickHouse's totals below the row's positions with the copied counters; a difference holds the whole tenant;
3. commit `sending`, which renews the lease;
4. look at the lease's deadline, then POST, once;
5. commit where the answer takes it.

A crash between any two leaves a row that the next sender picks up when the lease ends: before 3 it was not sent, after 3
it is sent again with the same identifier and body, or, when that is no longer safe, becomes ambiguous.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

from psycopg import Connection

from billing_exporter import ledger
from billing_exporter.closes import Held, closes_of
from billing_exporter.figures import mappings
from billing_exporter.gateway import Account, Gateway
from billing_exporter.ledger import Row
from billing_exporter.truth import OpenTotals, TotalsBelow, together
from metering.export_states import Halted, Outcome, Refused, State, Unclear, after_send, before_send, plain
from runtime import metrics
from runtime.crash import crash_point
from runtime.settings import Settings

logger = logging.getLogger(__name__)

LEASE_MARGIN_S = 30.0
"""How much longer than the longest call a lease lasts."""

WAIT_MIN_S = 0.5

UNCLEAR_IN_A_ROW_MAX = 50
"""After so many calls in a row without a clear answer Stripe is taken for away, and the rest waits for another run."""

CLAIMS_MAX = 1_000_000
"""Most claims of one thread in one drain: a bound, not a limit that is met."""

Clock = Callable[[], datetime]
Reached = Callable[[str], None]
"""Told the named points of a send, so that a test can die there: exporter.before_sending, .posted, .before_accepted."""


def utc_now() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


def _awake_s() -> float:
    """Seconds that also pass while the machine sleeps: a lease runs on without us."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class Tally:
    """What a drain did. Shared between threads under its lock."""

    states: Counter[State] = field(default_factory=Counter)
    held: dict[str, str] = field(default_factory=dict)
    """Tenant to the difference."""
    halted: str | None = None
    """Why Stripe does not want us."""
    away: str | None = None
    """Why nothing more is sent for now: so many calls in a row had no clear answer."""
    unclear: int = 0
    """Calls without a clear answer since the last one that had one."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, state: State) -> None:
        """A row came to this state."""
        metrics.EXPORTS.labels(state).inc()
        with self.lock:
            self.states[state] += 1

    @property
    def over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.halted is not None or self.away is not None

    def answered(self, outcome: Outcome) -> None:
        """A call came back."""
        with self.lock:
            if isinstance(outcome, Halted):
                self.halted = outcome.reason
            self.unclear = self.unclear + 1 if isinstance(outcome, Unclear) else 0
            if isinstance(outcome, Unclear) and self.unclear >= UNCLEAR_IN_A_ROW_MAX:
                self.away = outcome.reason


class Sender:
    """Sends what is due. One drain at a time; several processes may drain at once."""

    def __init__(
        self,
        settings: Settings,
        gateway: Gateway,
        account: Account,
        totals: OpenTotals,
        *,
        now: Clock = utc_now,
        stop: threading.Event | None = None,
        reached: Reached = crash_point,
    ) -> None:
        self._settings, self._gateway, self._account, self._totals = settings, gateway, account, totals
        self._now, self._stop, self._reached = now, stop or threading.Event(), reached
        # More threads than calls: while some wait for Stripe, others compare and commit.
        self._calls, self._threads = threading.BoundedSemaphore(settings.stripe_concurrency), settings.stripe_concurrency * 2
        self._lease_s = settings.stripe_timeout_s + LEASE_MARGIN_S
        self._frozen: dict[tuple[date, str], tuple[str, ...]] = {}
        """Usage types by (period, meter) that are fixed for good."""

    def drain(self, tally: Tally, patience_s: float, states: Sequence[State] = ledger.DUE) -> None:
        """Sends what is in `states` until nothing is due; waits up to `patience_s` for rows that wait for their next try.

        Raises TruthAway when ClickHouse does not answer, psycopg.Error when Postgres does not. Rows stay as they are then.
        """
        deadline = time.monotonic() + patience_s
        with ledger.connect(self._settings, autocommit=True) as connection, together(self._totals) as totals:
            while True:
                held = list(tally.held)
                threads = ledger.due_tenants(connection, self._account, states, held, self._now(), self._threads)
                if threads:
                    with ThreadPoolExecutor(threads, thread_name_prefix="export") as pool:
                        for done in [pool.submit(self._work, totals, tally, states) for _ in range(threads)]:
                            done.result()
                if tally.over or self._stop.is_set():
                    return
                soonest = ledger.soonest_try(connection, self._account)
                if soonest is None:
                    return
                # not 0: a row that is due and leased by another exporter would make this loop spin
                wait_s = max(WAIT_MIN_S, (soonest - self._now()).total_seconds())
                if time.monotonic() + wait_s > deadline or self._stop.wait(wait_s):
                    return

    def _work(self, totals: TotalsBelow, tally: Tally, states: Sequence[State]) -> None:
        # In autocommit: every step of a row is one statement, and three trips each would be most of what a row costs.
        with ledger.connect(self._settings, autocommit=True) as connection:
            for _ in range(CLAIMS_MAX):
                if tally.over or self._stop.is_set():
                    return
                with tally.lock:
                    held = list(tally.held)
                rows = ledger.claim(connection, self._account, states, held, self._now(), self._lease_s)
                if not rows:
                    return
                try:
                    self._tenant(connection, totals, rows, tally)
                finally:
                    if rows and not connection.broken:
                        ledger.release_unbegun(connection, rows)

    def _tenant(self, connection: Connection[Any], totals: TotalsBelow, rows: list[Row], tally: Tally) -> None:
        """Takes out of `rows` those that it is done with; what is left was left alone."""
        tenant = rows[0].tenant_id
        fresh = [row for row in rows if row.first_sent_at is None]
        if fresh:
            difference = self._difference(connection, totals, tenant)
            if difference is not None:
                logger.error("tenant held: ClickHouse and the counters differ", extra={"difference": difference})
                ledger.hold(connection, fresh, f"held: {difference}", self._now())
                metrics.EXPORTS_HELD.inc()
                with tally.lock:
                    tally.held[tenant] = difference
                rows[:] = [row for row in rows if row.first_sent_at is not None]
        while rows and not tally.over and not self._stop.is_set():
            self._send(connection, rows[0], tally)
            del rows[0]

    def _difference(self, connection: Connection[Any], totals: TotalsBelow, tenant: str) -> str | None:
        """How the tenant's planned rows differ from ClickHouse below their positions; None when they do not."""
        rows = ledger.unsent_of(connection, self._account, tenant)
        follows = any(row.follows is not None for row in rows)
        truth = Held(totals, tenant, closes_of(connection, tenant) if follows else {})
        found = []
        for row in rows:
            held = truth.of(row, self._usage_types(connection, row))
            if held != row.exact_total:
                found.append(
                    f"{row.meter} from {row.period_start}: clickhouse {plain(held)}, counters {plain(row.exact_total)},"
                    f" difference {plain(held - row.exact_total)}"
                )
        return "; ".join(found) or None

    def _usage_types(self, connection: Connection[Any], row: Row) -> tuple[str, ...]:
        """What the row's meter covers in its period."""
        known = self._frozen.get((row.period_start, row.meter))
        if known is not None:
            return known
        of_period = mappings(connection, self._account, [row.period_start])[row.period_start]
        mapping = next(mapping for mapping in of_period if mapping.meter == row.meter)
        if mapping.frozen:
            self._frozen[row.period_start, row.meter] = mapping.usage_types
        return mapping.usage_types

    def _send(self, connection: Connection[Any], row: Row, tally: Tally) -> None:
        now = self._now()
        step = before_send(row.state, row.first_sent_at, row.event_time, now)
        if step.state != "sending":
            if ledger.settle(connection, row, row.state, step, now):
                tally.add(step.state)
            return
        self._reached("exporter.before_sending")
        begun_s = _awake_s()
        if not ledger.begin_send(connection, row, now, self._lease_s):
            logger.warning("lease lost before the call; another sender has the row", extra={"ledger_id": row.id})
            return
        with self._calls:
            if _awake_s() - begun_s > LEASE_MARGIN_S:
                # stopped, or waited, for a while between commit and call: the lease may not outlast the call any more
                logger.warning("lease too old for a call; left to the next sender", extra={"ledger_id": row.id})
                return
            with metrics.STRIPE_SECONDS.time():
                outcome = self._gateway.send(row.event)
        self._reached("exporter.posted")
        self._settle(connection, row, outcome, now, tally)

    def _settle(self, connection: Connection[Any], row: Row, outcome: Outcome, sent_at: datetime, tally: Tally) -> None:
        now = self._now()
        step = after_send(outcome, row.attempts + 1, row.first_sent_at or sent_at, now, random.random())  # noqa: S311 - a wait
        self._reached("exporter.before_accepted")
        moved = ledger.settle(connection, replace(row, attempts=row.attempts + 1), "sending", step, now)
        if moved:
            tally.add(step.state)
        else:
            logger.warning("lease lost during the call; the next sender finds out", extra={"ledger_id": row.id})
        if isinstance(outcome, Refused):
            logger.error("Stripe refused an export", extra={"ledger_id": row.id, "reason": outcome.reason})
        tally.answered(outcome)
