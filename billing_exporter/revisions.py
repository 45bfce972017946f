"""New revisions, and taking back those that were never sent. The caller holds their head rows, and commits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from psycopg import Connection

from billing_exporter.gateway import Account
from metering.export_states import Mode, Positions
from metering.periods import Period


@dataclass(frozen=True)
class NewRow:
    """A revision to be planned."""

    tenant_id: str
    customer_id: str
    meter: str
    period: Period
    revision: int
    identifier: str
    exact_total: Decimal
    value: int
    remainder: Decimal
    event_time: datetime
    positions: Positions
    mode: Mode
    follows: date | None
    carried: Decimal


def insert(connection: Connection[Any], account: Account, rows: Sequence[NewRow], now: datetime) -> None:
    """Adds revisions as `planned`, in one statement."""
    if not rows:
        return
    connection.execute(
        "INSERT INTO export_ledger (account, livemode, state, created_at, changed_at,"
        " tenant_id, customer_id, meter, period_start, period_end, revision,"
        " identifier, exact_total, value, remainder, event_time, positions, mode, follows, carried)"
        " SELECT %s, %s, 'planned', %s, %s, n.* FROM unnest("
        " %s::text[], %s::text[], %s::text[], %s::date[], %s::date[], %s::int[],"
        " %s::text[], %s::numeric[], %s::bigint[], %s::numeric[], %s::timestamptz[], %s::jsonb[],"
        " %s::text[], %s::date[], %s::numeric[]) AS n",
        (
            account.id,
            account.livemode,
            now,
            now,
            [row.tenant_id for row in rows],
            [row.customer_id for row in rows],
            [row.meter for row in rows],
            [row.period.start for row in rows],
            [row.period.end for row in rows],
            [row.revision for row in rows],
            [row.identifier for row in rows],
            [row.exact_total for row in rows],
            [row.value for row in rows],
            [row.remainder for row in rows],
            [row.event_time for row in rows],
            [json.dumps(dict(row.positions)) for row in rows],
            [row.mode for row in rows],
            [row.follows for row in rows],
            [row.carried for row in rows],
        ),
    )


def note_carried_forward(connection: Connection[Any], account: Account, rows: Sequence[NewRow], now: datetime) -> None:
    """Says at the closed revision of each period before that something of it came late and stands in the next one."""
    if not rows:
        return
    connection.execute(
        "UPDATE export_ledger l SET state = 'carry_forward', changed_at = %(now)s,"
        "  reason = 'events that came late are billed in the period from ' || n.period_start"
        " FROM unnest(%(tenants)s::text[], %(meters)s::text[], %(follows)s::date[], %(starts)s::date[])"
        "  AS n (tenant_id, meter, follows, period_start)"
        " WHERE l.tenant_id = n.tenant_id AND l.meter = n.meter AND l.period_start = n.follows"
        "  AND l.account = %(account)s AND l.livemode = %(livemode)s AND l.state = 'closed'",
        {
            "account": account.id,
            "livemode": account.livemode,
            "now": now,
            "tenants": [row.tenant_id for row in rows],
            "meters": [row.meter for row in rows],
            "follows": [row.follows for row in rows],
            "starts": [row.period.start for row in rows],
        },
    )


def supersede_unsent(connection: Connection[Any], ids: Sequence[int], now: datetime) -> set[int]:
    """Takes back rows that were never sent; returns those that it could. A row that a sender has leased stays."""
    found = connection.execute(
        "WITH taken AS (SELECT id FROM export_ledger WHERE id = ANY(%(ids)s) AND state IN ('planned', 'manual')"
        "  AND first_sent_at IS NULL AND (lease_until IS NULL OR lease_until < clock_timestamp()) ORDER BY id FOR UPDATE)"
        " UPDATE export_ledger SET state = 'superseded', reason = 'a newer total', changed_at = %(now)s,"
        "  lease_token = NULL, lease_until = NULL WHERE id IN (SELECT id FROM taken) RETURNING id",
        {"ids": list(ids), "now": now},
    ).fetchall()
    return {int(row[0]) for row in found}
