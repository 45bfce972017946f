"""Final invoices: each closes its period at the revision that it billed.

One metered line of a final invoice:

1. lock what closers share, then the head row of (account, livemode, customer, meter): nobody plans or closes meanwhile;
2. find the revision behind the invoice's quantity (`metering.finality`); a row that is being sent is left for the next look;
3. that revision becomes `closed`, or `manual` where the invoice says a number that nobody sent; newer ones `superseded`: what
   they had more is billed in the next period;
4. write the invoice down; commit.

Where no invoice is found, a confirmed revision is closed once Stripe takes nothing more of its period.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

from psycopg import Connection

from billing_exporter import finals, ledger
from billing_exporter.closes import Close, closes_of
from billing_exporter.figures import lock_heads, mappings
from billing_exporter.gateway import Account, FinalUsage, Gateway
from metering.closing import ZERO, after_close, billed
from metering.export_states import Mode, State
from metering.finality import TO_CLOSED, TO_MANUAL, TO_SUPERSEDED, UNCHANGEABLE_AFTER, Billed, Told, billed_by
from metering.periods import Period, billing_period
from runtime import metrics
from runtime.settings import Settings

logger = logging.getLogger(__name__)

LOOK_BACK = timedelta(days=4)
"""An invoice may become final 72 hours after it was made: so far each look begins before the last one's end."""

STEP = 500


@dataclass
class Looked:
    """What a look at the invoices found."""

    finals: int = 0
    """Lines of final invoices that were new."""
    closed: int = 0
    """Revisions that came to `closed`."""
    disagree: list[str] = field(default_factory=list)
    """Invoices that bill what nobody sent."""
    later: set[str] = field(default_factory=set)
    """Tenants of lines whose pair was being sent: the next look takes them, and their periods wait for it."""


@dataclass(frozen=True)
class _Subject:
    tenant_id: str
    period: Period


def look(settings: Settings, gateway: Gateway, account: Account, now: datetime) -> Looked:
    """Takes in every final invoice made since the last look. Commits line by line.

    Raises GatewayError and its kinds; what was taken in stays so, and the next look begins where this one did.
    """
    found = Looked()
    with ledger.connect(settings) as connection:
        usages = gateway.final_usage(_since(connection, account, now))
        while step := list(islice(usages, STEP)):
            for usage, subject in _new(connection, account, step):
                _take_in(connection, account, usage, subject, now, found)
        if not found.later:
            connection.execute(
                "INSERT INTO export_invoices_read VALUES (%s, %s, %s)"
                " ON CONFLICT (account, livemode) DO UPDATE SET until = greatest(export_invoices_read.until, excluded.until)",
                (account.id, account.livemode, now),
            )
        found.closed += _close_what_is_too_old_to_change(connection, account, now)
        connection.commit()
    metrics.EXPORTS.labels("closed").inc(found.closed)
    return found


def _since(connection: Connection[Any], account: Account, now: datetime) -> datetime:
    row = connection.execute(
        "SELECT until FROM export_invoices_read WHERE account = %s AND livemode = %s", (account.id, account.livemode)
    ).fetchone()
    connection.commit()
    return now - UNCHANGEABLE_AFTER if row is None else row[0] - LOOK_BACK


def _new(connection: Connection[Any], account: Account, usages: Sequence[FinalUsage]) -> Iterator[tuple[FinalUsage, _Subject]]:
    """Those of tenants of ours and of a whole period that are not on record, with whose period it is."""
    rows = connection.execute(
        "SELECT u.place, t.tenant_id, t.anchor_day, (SELECT max(period_end) FROM period_closes c"
        "  WHERE c.tenant_id = t.tenant_id AND c.state = 'closed' AND c.period_end < u.period_end)"
        " FROM unnest(%(customers)s::text[], %(meters)s::text[], %(ends)s::date[]) WITH ORDINALITY"
        "  AS u (customer_id, meter, period_end, place)"
        " JOIN tenants t ON t.tenant_id = coalesce("
        "  (SELECT h.tenant_id FROM export_heads h WHERE h.account = %(account)s AND h.livemode = %(livemode)s"
        "    AND h.customer_id = u.customer_id AND h.meter = u.meter),"
        "  (SELECT c.tenant_id FROM tenants c WHERE c.stripe_customer_id = u.customer_id ORDER BY 1 LIMIT 1))"
        " WHERE NOT EXISTS (SELECT FROM export_finals f WHERE f.account = %(account)s AND f.livemode = %(livemode)s"
        "  AND f.tenant_id = t.tenant_id AND f.meter = u.meter AND f.period_end = u.period_end) ORDER BY u.place",
        {
            "account": account.id,
            "livemode": account.livemode,
            "customers": [usage.customer_id for usage in usages],
            "meters": [usage.meter for usage in usages],
            "ends": [usage.ends_at.date() for usage in usages],
        },
    ).fetchall()
    connection.commit()
    for place, tenant, anchor, closed_until in rows:
        usage = usages[place - 1]
        period = _period(usage, anchor, closed_until)
        if period is None:
            logger.info("a final invoice is of no whole period of its tenant", extra={"invoice": usage.invoice_id})
        else:
            yield usage, _Subject(tenant, period)


def _period(usage: FinalUsage, anchor: int, closed_until: date | None) -> Period | None:
    """The tenant's billing period that ends with the invoice's; a subscription that began in it may have a shorter one."""
    if usage.ends_at.timetz().replace(tzinfo=None) != time():
        return None
    end = usage.ends_at.date()
    period = after_close(billing_period(end - timedelta(days=1), anchor), closed_until)
    return period if period.end == end else None


def _take_in(
    connection: Connection[Any], account: Account, usage: FinalUsage, subject: _Subject, now: datetime, found: Looked
) -> None:
    with connection.transaction():
        # 1. the locks
        finals.lock_finals(connection)
        lock_heads(connection, account, [(usage.customer_id, usage.meter, subject.tenant_id)])
        # 2. the revision
        revisions = _revisions(connection, account, usage.meter, subject)
        if any(one.state == "sending" for one in revisions):
            found.later.add(subject.tenant_id)
            return
        billed_one = billed_by(revisions, usage.quantity, usage.finalized_at, usage.invoice_id)
        billed_one = _against_our_close(connection, account, usage, subject, billed_one, revisions)
        # 3. the moves
        told = billed_one.revision
        found.closed += _move(connection, account, usage, subject, billed_one, revisions, now)
        # 4. on record
        finals.record(
            connection,
            account,
            subject.tenant_id,
            usage.meter,
            subject.period,
            usage.invoice_id,
            usage.finalized_at,
            usage.quantity,
            None if told is None else told.id,
            0 if told is None else told.shown,
            now,
        )
    found.finals += 1
    if billed_one.reason:
        found.disagree.append(f"{subject.tenant_id}, {usage.meter} from {subject.period.start}: {billed_one.reason}")
        logger.error("a final invoice bills what nobody sent", extra={"invoice": usage.invoice_id, "reason": billed_one.reason})


def _revisions(connection: Connection[Any], account: Account, meter: str, subject: _Subject) -> list[Told]:
    """The pair's, oldest first, locked."""
    rows: list[tuple[int, int, int, Decimal, State, datetime | None, Mode]] = connection.execute(
        "SELECT id, revision, value, exact_total, state, first_sent_at, mode FROM export_ledger"
        " WHERE account = %s AND livemode = %s AND tenant_id = %s AND meter = %s AND period_start = %s"
        " ORDER BY revision FOR UPDATE",
        (account.id, account.livemode, subject.tenant_id, meter, subject.period.start),
    ).fetchall()
    found, added = [], 0
    for row_id, revision, value, total, state, sent, mode in rows:
        shown = added + value if mode == "sum" else value
        if state in ("accepted", "confirmed"):
            added = shown
        found.append(Told(row_id, revision, shown, total, state, sent))
    return found


def _against_our_close(
    connection: Connection[Any],
    account: Account,
    usage: FinalUsage,
    subject: _Subject,
    billed_one: Billed,
    revisions: Sequence[Told],
) -> Billed:
    """A period that we closed first stands: an invoice that billed another total of it is for a person."""
    closes = closes_of(connection, subject.tenant_id)
    own = closes.get(subject.period.start)
    if own is None or own.state != "closed":
        return billed_one
    total = closed_total(connection, account, usage.meter, own, closes)
    said = ZERO if billed_one.revision is None else billed_one.revision.total
    if billed_one.reason or said == total:
        return billed_one
    at_stripe = [one for one in revisions if one.state in TO_MANUAL and one.total == total]
    reason = (
        f"drift: the period was closed at {total:f}, and the invoice {usage.invoice_id} was final before that with"
        f" {usage.quantity} units ({said:f}): bill the difference by hand"
    )
    return Billed(at_stripe[-1] if at_stripe else billed_one.revision, reason)


def closed_total(connection: Connection[Any], account: Account, meter: str, own: Close, closes: Mapping[date, Close]) -> Decimal:
    """What a closed period bills of a meter. `closes` are its tenant's, by their first day."""
    before = next((one for one in closes.values() if one.period.end == own.period.start and one.state == "closed"), None)
    of_close = billed(own.totals, {} if before is None else before.totals)
    types = [of.usage_types for of in mappings(connection, account, [own.period.start])[own.period.start] if of.meter == meter]
    return sum((of_close.get(usage_type, ZERO) for of in types for usage_type in of), ZERO)


def _move(
    connection: Connection[Any],
    account: Account,
    usage: FinalUsage,
    subject: _Subject,
    billed_one: Billed,
    revisions: Sequence[Told],
    now: datetime,
) -> int:
    """Returns how many revisions came to `closed`."""
    chosen, closed = billed_one.revision, 0
    for one in revisions:
        if chosen is not None and one.id == chosen.id:
            path = TO_MANUAL.get(one.state, ()) if billed_one.reason else TO_CLOSED.get(one.state, ())
            reason = billed_one.reason or f"billed by {usage.invoice_id}"
            closed += ledger.move_through(connection, one.id, one.state, path, reason, now) and path[-1] == "closed"
        elif chosen is not None and one.revision < chosen.revision and one.state in ("accepted", "confirmed"):
            # Under `sum` all that it took stands; under `last` there is none.
            closed += ledger.move_through(connection, one.id, one.state, ("closed",), f"billed by {usage.invoice_id}", now)
        elif one.state in TO_SUPERSEDED and not billed_one.reason:
            reason = f"{usage.invoice_id} was final without it: billed in the next period"
            ledger.move_through(connection, one.id, one.state, ("superseded",), reason, now)
    return closed


def _close_what_is_too_old_to_change(connection: Connection[Any], account: Account, now: datetime) -> int:
    found = connection.execute(
        "UPDATE export_ledger SET state = 'closed', changed_at = %s,"
        " reason = 'Stripe takes nothing more of the period, and no final invoice of it was found'"
        " WHERE account = %s AND livemode = %s AND state = 'confirmed' AND period_end < %s",
        (now, account.id, account.livemode, (now - UNCHANGEABLE_AFTER).date()),
    )
    return found.rowcount
