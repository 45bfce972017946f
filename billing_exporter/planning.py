"""Planning: what each (tenant, meter, period) should show at Stripe, and the ledger rows that will make it so.

A dry run and a run decide with the same code. A run then does it again for the pairs that need a new revision:

1. lock the head rows of (account, livemode, customer, meter), in order;
2. in a NEW statement read fences and totals: one snapshot holds both, and it begins after the lock was granted;
3. read the ledger, decide, and insert only what dominates the last revision;
4. commit.

Reading before the lock, or fences and totals in two statements, would let an older total overwrite a newer one.

A period that is closed is planned at its close's own total and positions; one that is being closed, or whose close was
refused, is left alone. After a closed period the total is everything before the period's end that the close did not bill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from psycopg import Connection

from billing_exporter.amounts import Amount, amount_of
from billing_exporter.figures import (
    LedgerView,
    MeterMapping,
    carries,
    figures,
    freeze_mappings,
    in_flight,
    ledger_view,
    lock_heads,
    mappings,
)
from billing_exporter.finals import Final, finals_of
from billing_exporter.gateway import Account
from billing_exporter.revisions import NewRow, insert, note_carried_forward, supersede_unsent
from metering.closing import after_close
from metering.export_states import Action, TooLarge, Wanted, decide, event_time, identifier
from metering.periods import Period, billing_period, billing_period_starting_in, previous

TENANTS_PER_STEP = 1_000
UNMAPPED_MAX = 1_000
MONTHS_MAX = 1_200

Round = Callable[[int], Period]
"""The billing period that a tenant with an anchor day has in one round of planning."""


@dataclass(frozen=True)
class Line:
    """One (tenant, meter, period): what it should show and what planning did, or would do, about it."""

    tenant_id: str
    meter: str
    customer_id: str | None
    period: Period
    total: Decimal
    value: int | None
    scale: int
    before: Decimal
    """The exact total that Stripe was last told, 0 if nothing."""
    state: str
    """Of the newest revision; `new` where there is none."""
    action: Action | Literal["no_customer"]
    reason: str
    late: Decimal = Decimal(0)
    """What of the total came too late for an earlier, closed period: carried forward into this one."""

    @property
    def change(self) -> Decimal:
        """Since Stripe was last told."""
        return self.total - self.before


@dataclass(frozen=True)
class Unmapped:
    """Usage that no tenant or usage type of the catalog explains: it is counted, and nobody is billed for it."""

    tenant_id: str
    usage_type: str
    quantity: Decimal
    reason: Literal["unknown_tenant", "unknown_usage_type"]


_MISALIGNED = (
    "EXISTS (SELECT FROM subscriptions s WHERE s.tenant_id = t.tenant_id AND s.misaligned"
    " AND s.status NOT IN ('canceled', 'incomplete_expired'))"
)


@dataclass(frozen=True)
class _Subject:
    tenant_id: str
    customer_id: str | None
    period: Period
    misaligned: bool = False
    """It is billed by a subscription whose periods are others: what is exported for one of these would land in another bill."""


@dataclass(frozen=True)
class _Draft:
    """A line, and the row that would carry it out."""

    line: Line
    row: NewRow | None = None
    replaces: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.line.tenant_id, self.line.meter

    def held(self, action: Action, reason: str) -> _Draft:
        """The same pair, left alone for a reason."""
        return _Draft(replace(self.line, action=action, reason=reason))


def rounds(
    connection: Connection[Any], today: date, month: tuple[int, int] | None, every: bool, since: date | None = None
) -> list[Round]:
    """The rounds of a selection, oldest first.

    A named month is, for each tenant, the billing period that starts in it. Without one: the running period and the one
    before it, and those that ran since the day `since`. `every`: each period from the first counter on.
    """
    if month is not None:
        return [starting_in(*month)]
    if not every:
        missed = 0 if since is None else (today.year - since.year) * 12 + today.month - since.month
        return [_back(today, periods) for periods in range(min(max(missed, 0), MONTHS_MAX) + 1, -1, -1)]
    row = connection.execute("SELECT min(day) FROM usage_counters").fetchone()
    first = row[0] if row and row[0] else today
    # an anchor day later than the first day's puts it into the period that starts in the month before
    start = first.year * 12 + first.month - 2
    stop = min(today.year * 12 + today.month - 1, start + MONTHS_MAX)
    return [starting_in(index // 12, index % 12 + 1) for index in range(start, stop + 1)]


def _back(today: date, periods: int) -> Round:
    def of(anchor: int) -> Period:
        period = billing_period(today, anchor)
        for _ in range(periods):
            period = previous(period, anchor)
        return period

    return of


def starting_in(year: int, number: int) -> Round:
    """The round of the periods that start in a month."""
    return lambda anchor: billing_period_starting_in(year, number, anchor)


def plan(connection: Connection[Any], account: Account | None, which: Round, now: datetime, *, write: bool) -> Iterator[Line]:
    """The lines of a round. With `write` the needed revisions are in the ledger, committed, when their line comes out.

    `account` is None in a dry run with a key that was never used: then nothing was ever sent.
    """
    if write:
        assert account is not None
        freeze_mappings(connection, account, sorted({which(anchor).start for anchor in range(1, 32)}))
        connection.commit()
    for subjects in _steps(connection, which):
        if write and account is not None:
            # Where an anchor day was moved a period may begin on a day of its own.
            freeze_mappings(connection, account, sorted({subject.period.start for subject in subjects}))
            connection.commit()
        drafts = _drafts(connection, account, subjects, now)
        connection.commit()
        wanted = {draft.key for draft in drafts if draft.row is not None}
        if write and account is not None and wanted:
            made = _write(connection, account, subjects, wanted, now)
            drafts = [made.get(draft.key, draft) for draft in drafts]
        for draft in drafts:
            yield draft.line


def lines_of(connection: Connection[Any], account: Account, tenant_id: str, period: Period, now: datetime) -> list[Line]:
    """What one tenant needs in one period; reads only."""
    row = connection.execute(
        f"SELECT stripe_customer_id, {_MISALIGNED} FROM tenants t WHERE tenant_id = %s".encode(), (tenant_id,)
    ).fetchone()
    customer, misaligned = (None, False) if row is None else row
    subject = _Subject(tenant_id, customer, period, misaligned)
    return [draft.line for draft in _drafts(connection, account, [subject], now)]


def unmapped(connection: Connection[Any], which: Round) -> list[Unmapped]:
    """Usage of a round's calendar month that the catalog does not explain, largest first, at most UNMAPPED_MAX."""
    period = which(1)
    rows = connection.execute(
        "SELECT c.tenant_id, c.usage_type, sum(c.quantity),"
        " CASE WHEN t.tenant_id IS NULL THEN 'unknown_tenant' ELSE 'unknown_usage_type' END"
        " FROM usage_counters c LEFT JOIN tenants t USING (tenant_id) LEFT JOIN usage_types u USING (usage_type)"
        " WHERE c.day >= %s AND c.day < %s AND (t.tenant_id IS NULL OR u.usage_type IS NULL)"
        " GROUP BY 1, 2, 4 ORDER BY 3 DESC, 1, 2 LIMIT %s",
        (period.start, period.end, UNMAPPED_MAX),
    ).fetchall()
    return [Unmapped(*row) for row in rows]


def _steps(connection: Connection[Any], which: Round) -> Iterator[list[_Subject]]:
    after = ""
    while True:
        tenants = connection.execute(
            "SELECT tenant_id, anchor_day, stripe_customer_id, (SELECT max(period_end) FROM period_closes c"
            f" WHERE c.tenant_id = t.tenant_id AND c.state = 'closed'), {_MISALIGNED} FROM tenants t"
            " WHERE tenant_id > %s ORDER BY tenant_id LIMIT %s".encode(),
            (after, TENANTS_PER_STEP),
        ).fetchall()
        if not tenants:
            return
        yield [
            _Subject(tenant, customer, after_close(which(anchor), until), misaligned)
            for tenant, anchor, customer, until, misaligned in tenants
        ]
        after = tenants[-1][0]


def _drafts(
    connection: Connection[Any],
    account: Account | None,
    subjects: Sequence[_Subject],
    now: datetime,
    only: frozenset[tuple[str, str]] | None = None,
) -> list[_Draft]:
    """What these tenants need; for `only` these (tenant, meter) pairs when given."""
    keys = [(subject.tenant_id, subject.period) for subject in subjects]
    by_start = mappings(connection, account, sorted({period.start for _, period in keys}))
    found = figures(connection, keys, by_start)
    views = ledger_view(connection, account, keys)
    flying = in_flight(connection, account, [subject.customer_id for subject in subjects if subject.customer_id])
    carried = carries(connection, account, [(tenant, close.period.start) for tenant, close in found.before.items()])
    finals = finals_of(connection, account, [(tenant, period.start) for tenant, period in keys])
    drafts = []
    for subject in subjects:
        for mapping in by_start[subject.period.start]:
            key = (subject.tenant_id, mapping.meter)
            if only is not None and key not in only:
                continue
            view = views.get(key)
            amount = amount_of(found, key, mapping, carried.get(key))
            if view is not None or amount.counts:
                other = flying.get((subject.customer_id or "", mapping.meter))
                final = finals.get(subject.tenant_id, {}).get(mapping.meter)
                drafts.append(_draft(account, subject, mapping, amount, view, final, other, now))
    return drafts


def _draft(
    account: Account | None,
    subject: _Subject,
    mapping: MeterMapping,
    amount: Amount,
    view: LedgerView | None,
    final: Final | None,
    other: tuple[date, int] | None,
    now: datetime,
) -> _Draft:
    line = Line(
        tenant_id=subject.tenant_id,
        meter=mapping.meter,
        customer_id=subject.customer_id,
        period=subject.period,
        total=amount.total,
        value=None,
        scale=mapping.scale,
        before=view.accepted_total if view else Decimal(0),
        state=view.latest.state if view else "new",
        action="nothing",
        reason="",
        late=amount.late,
    )
    if final is not None:
        why = f"{final.invoice_id} is final: what it does not bill belongs to the next period"
        return _Draft(replace(line, value=final.told, action="keep", reason=why))
    if amount.problem is not None:
        action, why = amount.problem
        return _Draft(replace(line, action=action, reason=why))
    try:
        sent = amount.units(mapping.scale)
    except TooLarge as error:
        return _Draft(replace(line, action="hold", reason=f"too_large: {error}"))
    if subject.customer_id is None:
        if amount.total == 0 and view is None:
            return _Draft(replace(line, reason="no usage"))
        why = "no Stripe customer: run `meterline stripe setup`"
        return _Draft(replace(line, action="no_customer", reason=why))
    line = replace(line, value=sent.value)
    wanted = Wanted(subject.customer_id, amount.total, sent.value, amount.positions, mapping.mode)
    decision = decide(view.latest if view else None, wanted)
    draft = _Draft(replace(line, action=decision.action, reason=decision.reason))
    if decision.action not in ("insert", "supersede"):
        return draft
    if subject.misaligned:
        return draft.held("hold", "misaligned: its subscription's periods are not the tenant's; end it and subscribe it anew")
    if other is not None and other[0] != subject.period.start:
        return draft.held("wait", f"revision {other[1]} of the period from {other[0]} is in flight")
    at = event_time(subject.period, now, view.newest_event if view else None)
    if isinstance(at, str):
        return draft.held("hold", at)
    if account is None:
        return draft
    revision = view.latest.revision + 1 if view else 1
    # Under `sum` an event adds to what Stripe took before it.
    value = sent.value - (view.told if view else 0) if mapping.mode == "sum" else sent.value
    row = NewRow(
        tenant_id=subject.tenant_id,
        customer_id=subject.customer_id,
        meter=mapping.meter,
        period=subject.period,
        revision=revision,
        identifier=identifier(
            account.id,
            account.livemode,
            subject.tenant_id,
            mapping.meter,
            subject.period.start.isoformat(),
            revision,
            value,
        ),
        exact_total=amount.total,
        value=value,
        remainder=sent.remainder,
        event_time=at,
        positions=amount.positions,
        mode=mapping.mode,
        follows=amount.follows,
        carried=amount.carried,
    )
    return replace(draft, row=row, replaces=view.latest_id if view and decision.action == "supersede" else None)


def _write(
    connection: Connection[Any],
    account: Account,
    subjects: Sequence[_Subject],
    wanted: set[tuple[str, str]],
    now: datetime,
) -> dict[tuple[str, str], _Draft]:
    """Plans the wanted pairs under their locks, in one transaction; returns them as they were decided there."""
    tenants = {tenant for tenant, _ in wanted}
    subjects = [subject for subject in subjects if subject.tenant_id in tenants]
    customers = {subject.tenant_id: subject.customer_id for subject in subjects}
    with connection.transaction():
        # 1. the locks
        bound = lock_heads(connection, account, ((customers[tenant] or "", meter, tenant) for tenant, meter in wanted))
        # 2. and 3. fences and totals in a new statement, then the ledger
        drafts = _drafts(connection, account, subjects, now, frozenset(wanted))
        replaced = supersede_unsent(connection, [draft.replaces for draft in drafts if draft.replaces is not None], now)
        made: dict[tuple[str, str], _Draft] = {}
        for draft in drafts:
            if draft.row is not None:
                owner = bound[draft.row.customer_id, draft.row.meter]
                if owner != draft.row.tenant_id:
                    draft = draft.held("hold", f"Stripe's customer {draft.row.customer_id} is billed for tenant {owner}")
                elif draft.replaces is not None and draft.replaces not in replaced:
                    draft = draft.held("wait", "it is being sent")
            made[draft.key] = draft
        insert(connection, account, [draft.row for draft in made.values() if draft.row is not None], now)
        late = [draft.row for draft in made.values() if draft.row is not None and draft.line.late]
        note_carried_forward(connection, account, late, now)
    # 4. committed
    return made
