"""Closing periods: fixing, once and for ever, what a tenant's period bills.

For tenants whose next period has ended, grace included:

1. in ONE transaction lock the fence rows in order, see that `asOf` has passed end + grace, copy the cumulative counters and
   the fences, as `copied`; planning leaves such a period alone from here on;
2. outside the locks compare what the period bills with ClickHouse below the copied positions;
3. `closed` where they are equal, `refused` with the difference where not: then the tenant is held, and the next run copies anew.
   A meter whose invoice was final already is closed at the revision that the invoice billed: the rest is the next period's.

A crash between any two leaves a copy that the next run replaces. Safe with two copies running: a closed row refuses every change.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from psycopg import Connection

from billing_exporter.closes import COLUMNS, Close, Held, close_row, closes_of
from billing_exporter.figures import Left, MeterMapping, carries, freeze_mappings, keep_carries, mappings
from billing_exporter.finals import Final, finals_of, lock_finals
from billing_exporter.gateway import Account
from billing_exporter.truth import OpenTotals, TotalsBelow, Window
from metering.closing import ZERO, Totals, billed, difference, is_due, next_period
from metering.export_states import TooLarge, left_after, rescaled, units
from metering.periods import FIRST_DAY, Period
from runtime import metrics
from store.freshness import covered_until

logger = logging.getLogger(__name__)

TENANTS_PER_STEP = 500
PERIODS_MAX = 600
"""Most periods that one run closes for one tenant, one after the other: fifty years of months."""


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
_COPY = f"""
INSERT INTO period_closes (tenant_id, period_start, period_end, state, positions, totals, reason, copied_at, changed_at)
SELECT s.tenant_id, s.period_start, s.period_end, 'copied', fences.positions, copied.totals, NULL, %(now)s, %(now)s
  FROM unnest(%(tenants)s::text[], %(starts)s::date[], %(ends)s::date[]) AS s (tenant_id, period_start, period_end)
 CROSS JOIN (SELECT coalesce(jsonb_object_agg(epoch || ':' || partition, next_offset), '{{}}') AS positions
               FROM delta_fences) fences
 CROSS JOIN LATERAL (
       SELECT coalesce(jsonb_object_agg(u.usage_type, (u.quantity - coalesce(later.quantity, 0))::text), '{{}}') AS totals
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
RETURNING {COLUMNS}
"""

_BEFORE = f"""
SELECT {COLUMNS} FROM period_closes
 WHERE state = 'closed' AND (tenant_id, period_end) IN (SELECT * FROM unnest(%(tenants)s::text[], %(starts)s::date[]))
"""


def close_due(
    connection: Connection[Any],
    account: Account,
    totals: OpenTotals,
    now: datetime,
    grace: timedelta,
    waiting: Collection[str] = (),
) -> Closing:
    """Closes every period that is due, oldest first, but of the tenants in `waiting`. Commits step by step.

    With a close stands what it leaves of each of the account's meters: fractions of a unit, and what is negative. ClickHouse is
    asked only when something is due. Raises TruthAway when it does not answer; what was copied is copied anew by the next run.
    """
    report = Closing()
    with ExitStack() as opened:

        @cache
        def truth() -> TotalsBelow:
            return opened.enter_context(totals())

        for _ in range(PERIODS_MAX):
            closed = report.closed
            for due in _due(connection, grace, {*report.refused, *waiting}):
                copied = _copied(connection, due, now, grace)
                if copied:
                    _compared(connection, account, truth(), copied, now, report)
            if report.closed == closed:
                break
    metrics.PERIODS_REFUSED.set(len(report.refused))
    return report


def _due(connection: Connection[Any], grace: timedelta, left_out: set[str]) -> Iterator[list[tuple[str, Period]]]:
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
            if period is not None and is_due(period, as_of, grace) and tenant not in left_out
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
        cursor = connection.cursor(row_factory=close_row).execute(
            _COPY,
            {
                "tenants": [tenant for tenant, _ in due],
                "starts": [period.start for _, period in due],
                "ends": [period.end for _, period in due],
                "now": now,
            },
        )
        found: list[Close] = cursor.fetchall()
    return found


def _compared(
    connection: Connection[Any], account: Account, truth: TotalsBelow, copied: Sequence[Close], now: datetime, report: Closing
) -> None:
    """Steps 2 and 3."""
    before = _before(connection, copied)
    starts = sorted({close.period.start for close in copied})
    freeze_mappings(connection, account, starts)
    by_start = mappings(connection, account, starts)
    connection.commit()
    for together in _of_one_window(copied, before):
        sums = _sums(truth, together, before)
        carried = carries(connection, account, [(was.tenant_id, was.period.start) for was in before.values()])
        # From here to the commit no invoice can be found to be final.
        lock_finals(connection, shared=True)
        finals = finals_of(connection, account, [(close.tenant_id, close.period.start) for close in together])
        left: list[Left] = []
        for close in together:
            was = before.get(close.tenant_id)
            here = billed(close.totals, {} if was is None else was.totals)
            problem = difference(here, sums[close.tenant_id])
            final = finals.get(close.tenant_id, {})
            if problem is None and final:
                cut = _cut(connection, truth, close, was, final, by_start[close.period.start])
                close, problem = cut if isinstance(cut, Close) else close, cut if isinstance(cut, str) else None
                here = billed(close.totals, {} if was is None else was.totals)
            settled = _settle(connection, close, problem, now)
            if problem is None:
                report.closed += settled
                if settled:
                    left += _left_by(close, here, by_start[close.period.start], carried, final)
            else:
                logger.error("a period is not closed: ClickHouse and the counters differ", extra={"difference": problem})
                report.refused[close.tenant_id] = f"the period from {close.period.start} cannot be closed: {problem}"
        keep_carries(connection, account, left)
        connection.commit()


def _sums(truth: TotalsBelow, together: Sequence[Close], before: Mapping[str, Close]) -> dict[str, dict[str, Decimal]]:
    """What ClickHouse holds of the periods of these closes, which share one window: tenant to usage type to the total."""
    first, was = together[0], before.get(together[0].tenant_id)
    after = None if was is None else (was.period.end, was.positions)
    found: dict[str, dict[str, Decimal]] = {close.tenant_id: {} for close in together}
    for (tenant, usage_type), total in truth(Window(FIRST_DAY, first.period.end, first.positions, after), list(found)).items():
        found[tenant][usage_type] = total
    # Where an invoice cut the period before off, that one billed what its total says, and not all below its positions.
    cut = [close.tenant_id for close in together if close.tenant_id in before and before[close.tenant_id].finalized]
    if cut:
        whole = truth(Window(FIRST_DAY, first.period.end, first.positions), cut)
        for tenant in cut:
            for usage_type in before[tenant].finalized:
                found[tenant][usage_type] = whole.get((tenant, usage_type), ZERO) - before[tenant].totals.get(usage_type, ZERO)
    return {tenant: {kind: total for kind, total in totals.items() if total != 0} for tenant, totals in found.items()}


def _cut(
    connection: Connection[Any],
    truth: TotalsBelow,
    close: Close,
    was: Close | None,
    finals: Mapping[str, Final],
    of_period: Sequence[MeterMapping],
) -> Close | str:
    """The close with what final invoices billed of their meters' usage types, or why ClickHouse does not agree with that."""
    held = Held(truth, close.tenant_id, closes_of(connection, close.tenant_id))
    totals, finalized = dict(close.totals), dict[str, str]()
    for mapping in of_period:
        final = finals.get(mapping.meter)
        if final is None:
            continue
        by_type = dict.fromkeys(mapping.usage_types, ZERO)
        if final.revision is not None:
            revision = final.revision
            by_type = held.by_type(close.period, revision.positions, revision.follows, mapping.usage_types)
            there = sum(by_type.values(), ZERO)
            if there != revision.total:
                return f"{mapping.meter}: {final.invoice_id} billed {revision.total:f}, clickhouse {there:f}"
        for usage_type, total in by_type.items():
            totals[usage_type] = total + (ZERO if was is None else was.totals.get(usage_type, ZERO))
            finalized[usage_type] = final.invoice_id
    return replace(close, totals=totals, finalized=finalized)


def _left_by(
    close: Close,
    here: Totals,
    of_period: Sequence[MeterMapping],
    carried: Mapping[tuple[str, str], tuple[int, Decimal]],
    finals: Mapping[str, Final],
) -> Iterator[Left]:
    """What a closed period leaves of each meter. A total too large for Stripe is held as it is, and leaves nothing."""
    for mapping in of_period:
        total = sum((here.get(usage_type, ZERO) for usage_type in mapping.usage_types), ZERO)
        scale, carry = carried.get((close.tenant_id, mapping.meter), (mapping.scale, ZERO))
        carry = rescaled(carry, scale, mapping.scale)
        try:
            if mapping.meter in finals:
                remainder = left_after(total, mapping.scale, carry, finals[mapping.meter].told)
            else:
                remainder = units(total, mapping.scale, carry).remainder
        except TooLarge:
            continue
        if remainder:
            yield close.tenant_id, mapping.meter, close.period.start, mapping.scale, remainder


def _settle(connection: Connection[Any], close: Close, problem: str | None, now: datetime) -> bool:
    """Whether the copy still stood there."""
    found = connection.execute(
        "UPDATE period_closes SET state = %s, reason = %s, changed_at = %s, totals = %s, finalized = %s"
        " WHERE tenant_id = %s AND period_start = %s AND state = 'copied' AND positions = %s::jsonb",
        (
            "closed" if problem is None else "refused",
            problem,
            now,
            json.dumps({usage_type: f"{total:f}" for usage_type, total in close.totals.items()}),
            json.dumps(close.finalized),
            close.tenant_id,
            close.period.start,
            json.dumps(close.positions),
        ),
    )
    return found.rowcount == 1


def _before(connection: Connection[Any], copied: Sequence[Close]) -> dict[str, Close]:
    """The close before each, by tenant."""
    asked = {"tenants": [close.tenant_id for close in copied], "starts": [close.period.start for close in copied]}
    with connection.cursor(row_factory=close_row) as cursor:
        return {close.tenant_id: close for close in cursor.execute(_BEFORE, asked)}


def _of_one_window(copied: Sequence[Close], before: Mapping[str, Close]) -> list[list[Close]]:
    """Closes that one question to ClickHouse answers together."""
    groups: dict[object, list[Close]] = {}
    for close in copied:
        was = before.get(close.tenant_id)
        key = (close.period, None if was is None else (was.period.end, tuple(sorted(was.positions.items()))))
        groups.setdefault(key, []).append(close)
    return list(groups.values())
