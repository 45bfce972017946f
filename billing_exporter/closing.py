"""Closing periods: fixing, once and for ever, what a tenant's period bills.

For tenants whose next period has ended, grace included:

1. in ONE transaction lock the fence rows in order, see that `asOf` has passed end + grace, copy the cumulative counters and
   the fences, as `copied`; planning leaves such a period alone from here on;
2. outside the locks compare what the period bills with ClickHouse below the copied positions;
3. `closed` where they are equal, `refused` with the difference where not: then the tenant is held, and the next run copies anew.

A crash between any two leaves a copy that the next run replaces. Safe with two copies running: a closed row refuses every change.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import Connection

from billing_exporter.figures import Left, MeterMapping, carries, freeze_mappings, keep_carries, mappings
from billing_exporter.gateway import Account
from billing_exporter.ledger import Row
from billing_exporter.truth import TotalsBelow, Window
from metering.closing import ZERO, Totals, billed, difference, is_due, next_period
from metering.export_states import Positions, TooLarge, rescaled, units
from metering.periods import FIRST_DAY, Period
from runtime import metrics
from store.freshness import covered_until

logger = logging.getLogger(__name__)

TENANTS_PER_STEP = 500
PERIODS_MAX = 600
"""Most periods that one run closes for one tenant, one after the other: fifty years of months."""


@dataclass(frozen=True)
class Close:
    """A close as it stands on record."""

    tenant_id: str
    period: Period
    state: str
    positions: dict[str, int]
    totals: dict[str, Decimal]
    reason: str | None = None


@dataclass
class Closing:
    """What a run closed."""

    closed: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    """Tenant to the difference."""


_CANDIDATES = """
SELECT t.tenant_id, t.anchor_day, c.period_end, CASE WHEN c.period_end IS NULL THEN
       (SELECT min(day) FROM usage_counters u WHERE u.tenant_id = t.tenant_id) END AS first_day
  FROM tenants t
  LEFT JOIN LATERAL (SELECT period_end FROM period_closes p WHERE p.tenant_id = t.tenant_id AND p.state = 'closed'
                      ORDER BY period_start DESC LIMIT 1) c ON true
 WHERE t.tenant_id > %(after)s
 ORDER BY t.tenant_id LIMIT %(most)s
"""

# The counters of days before a period's end: all of them but the later ones, which are few.
_COPY = """
INSERT INTO period_closes (tenant_id, period_start, period_end, state, positions, totals, reason, copied_at, changed_at)
SELECT s.tenant_id, s.period_start, s.period_end, 'copied', fences.positions, copied.totals, NULL, %(now)s, %(now)s
  FROM unnest(%(tenants)s::text[], %(starts)s::date[], %(ends)s::date[]) AS s (tenant_id, period_start, period_end)
 CROSS JOIN (SELECT coalesce(jsonb_object_agg(epoch || ':' || partition, next_offset), '{}') AS positions
               FROM delta_fences) fences
 CROSS JOIN LATERAL (
       SELECT coalesce(jsonb_object_agg(u.usage_type, (u.quantity - coalesce(later.quantity, 0))::text), '{}') AS totals
         FROM usage_totals u
         LEFT JOIN LATERAL (
              SELECT sum(c.quantity) AS quantity FROM usage_counters c
               WHERE c.tenant_id = u.tenant_id AND c.usage_type = u.usage_type AND c.day >= s.period_end
              ) later ON true
        WHERE u.tenant_id = s.tenant_id OFFSET 0
       ) copied
 ORDER BY s.tenant_id
ON CONFLICT (tenant_id, period_start) DO UPDATE
   SET period_end = excluded.period_end, state = 'copied', positions = excluded.positions, totals = excluded.totals,
       reason = NULL, copied_at = excluded.copied_at, changed_at = excluded.changed_at
 WHERE period_closes.state <> 'closed'
RETURNING tenant_id, period_start, period_end, state, positions, totals, reason
"""

_BEFORE = """
SELECT tenant_id, period_start, period_end, state, positions, totals, reason FROM period_closes
 WHERE state = 'closed' AND (tenant_id, period_end) IN (SELECT * FROM unnest(%(tenants)s::text[], %(starts)s::date[]))
"""


def close_due(
    connection: Connection[Any], account: Account, truth: TotalsBelow, now: datetime, grace: timedelta, only: str | None = None
) -> Closing:
    """Closes every period that is due, oldest first; `only` one tenant's when it is given. Commits step by step.

    With a close stands what it leaves of each of the account's meters: fractions of a unit, and what is negative.

    Raises TruthAway when ClickHouse does not answer; what was copied is copied anew by the next run.
    """
    report = Closing()
    for _ in range(PERIODS_MAX):
        closed = report.closed
        for due in _due(connection, grace, only, set(report.refused)):
            copied = _copied(connection, due, now, grace)
            _compared(connection, account, truth, copied, now, report)
        if report.closed == closed:
            break
    metrics.PERIODS_REFUSED.set(len(report.refused))
    return report


def closes_of(connection: Connection[Any], tenant_id: str) -> dict[date, Close]:
    """Every close of a tenant by its first day, oldest first."""
    rows = connection.execute(
        "SELECT tenant_id, period_start, period_end, state, positions, totals, reason FROM period_closes"
        " WHERE tenant_id = %s ORDER BY period_start",
        (tenant_id,),
    ).fetchall()
    return {row[1]: _close(row) for row in rows}


def window_of(row: Row, closes: Mapping[date, Close]) -> Window:
    """The events that a revision's total sums. `closes` are its tenant's, by their first day."""
    if row.follows is None:
        return Window(row.period_start, row.period_end, row.positions)
    before = closes[row.follows]
    return Window(FIRST_DAY, row.period_end, row.positions, (before.period.end, before.positions))


def _due(
    connection: Connection[Any], grace: timedelta, only: str | None, left_out: set[str]
) -> Iterator[list[tuple[str, Period]]]:
    """Tenants with the period that each has to close next, as far as it is due; some at a time."""
    as_of, _ = covered_until(connection)
    after = ""
    while True:
        rows = connection.execute(_CANDIDATES, {"after": after, "most": TENANTS_PER_STEP}).fetchall()
        connection.commit()
        if not rows:
            return
        after = rows[-1][0]
        found = [(tenant, next_period(until, first, anchor)) for tenant, anchor, until, first in rows]
        due = [
            (tenant, period)
            for tenant, period in found
            if period is not None and is_due(period, as_of, grace) and tenant not in left_out and only in (None, tenant)
        ]
        if due:
            yield due


def _copied(connection: Connection[Any], due: Sequence[tuple[str, Period]], now: datetime, grace: timedelta) -> list[Close]:
    """Step 1. Those of which `asOf`, read under the locks, does not allow it are left out."""
    with connection.transaction():
        # In order, as the aggregator locks them. Shared: planners and other closers may read, counting waits for us.
        connection.execute("SELECT FROM delta_fences ORDER BY epoch, partition FOR SHARE")
        as_of, _ = covered_until(connection)
        due = [(tenant, period) for tenant, period in due if is_due(period, as_of, grace)]
        rows = connection.execute(
            _COPY,
            {
                "tenants": [tenant for tenant, _ in due],
                "starts": [period.start for _, period in due],
                "ends": [period.end for _, period in due],
                "now": now,
            },
        ).fetchall()
    return [_close(row) for row in rows]


def _compared(
    connection: Connection[Any], account: Account, truth: TotalsBelow, copied: Sequence[Close], now: datetime, report: Closing
) -> None:
    """Steps 2 and 3."""
    if not copied:
        return
    before = _before(connection, copied)
    starts = sorted({close.period.start for close in copied})
    freeze_mappings(connection, account, starts)
    by_start = mappings(connection, account, starts)
    connection.commit()
    for together in _of_one_window(copied, before):
        window = _window(together[0], before.get(together[0].tenant_id))
        sums = truth(window, [close.tenant_id for close in together])
        carried = carries(connection, account, [(was.tenant_id, was.period.start) for was in before.values()])
        left: list[Left] = []
        for close in together:
            was = before.get(close.tenant_id)
            here = billed(close.totals, {} if was is None else was.totals)
            there = {kind: total for (tenant, kind), total in sums.items() if tenant == close.tenant_id and total != 0}
            problem = difference(here, there)
            settled = _settle(connection, close, problem, now)
            if problem is None:
                report.closed += settled
                if settled:
                    left += _left_by(close, here, by_start[close.period.start], carried)
            else:
                logger.error("a period is not closed: ClickHouse and the counters differ", extra={"difference": problem})
                report.refused[close.tenant_id] = f"the period from {close.period.start} cannot be closed: {problem}"
        keep_carries(connection, account, left)
        connection.commit()


def _left_by(
    close: Close, here: Totals, of_period: Sequence[MeterMapping], carried: Mapping[tuple[str, str], tuple[int, Decimal]]
) -> Iterator[Left]:
    """What a closed period leaves of each meter. A total too large for Stripe is held as it is, and leaves nothing."""
    for mapping in of_period:
        total = sum((here.get(usage_type, ZERO) for usage_type in mapping.usage_types), ZERO)
        scale, remainder = carried.get((close.tenant_id, mapping.meter), (mapping.scale, ZERO))
        try:
            sent = units(total, mapping.scale, rescaled(remainder, scale, mapping.scale))
        except TooLarge:
            continue
        if sent.remainder:
            yield close.tenant_id, mapping.meter, close.period.start, mapping.scale, sent.remainder


def _settle(connection: Connection[Any], close: Close, problem: str | None, now: datetime) -> bool:
    """Whether the copy still stood there."""
    found = connection.execute(
        "UPDATE period_closes SET state = %s, reason = %s, changed_at = %s"
        " WHERE tenant_id = %s AND period_start = %s AND state = 'copied' AND positions = %s::jsonb",
        (
            "closed" if problem is None else "refused",
            problem,
            now,
            close.tenant_id,
            close.period.start,
            json.dumps(close.positions),
        ),
    )
    return found.rowcount == 1


def _before(connection: Connection[Any], copied: Iterable[Close]) -> dict[str, Close]:
    keys = [(close.tenant_id, close.period.start) for close in copied]
    rows = connection.execute(_BEFORE, {"tenants": [tenant for tenant, _ in keys], "starts": [start for _, start in keys]})
    return {row[0]: _close(row) for row in rows}


def _of_one_window(copied: Sequence[Close], before: Mapping[str, Close]) -> list[list[Close]]:
    """Closes that one question to ClickHouse answers together."""
    groups: dict[object, list[Close]] = {}
    for close in copied:
        was = before.get(close.tenant_id)
        key = (close.period, None if was is None else (was.period.end, tuple(sorted(was.positions.items()))))
        groups.setdefault(key, []).append(close)
    return list(groups.values())


def _window(close: Close, was: Close | None) -> Window:
    after = None if was is None else (was.period.end, was.positions)
    return Window(FIRST_DAY, close.period.end, close.positions, after)


def _close(row: tuple[str, date, date, str, Positions, dict[str, str], str | None]) -> Close:
    tenant_id, start, end, state, positions, totals, reason = row
    return Close(tenant_id, Period(start, end), state, dict(positions), decimals(totals), reason)


def decimals(totals: Mapping[str, str]) -> dict[str, Decimal]:
    """Totals as they stand in the table."""
    return {usage_type: Decimal(text) for usage_type, text in totals.items()}
