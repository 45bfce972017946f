"""What final invoices billed, as it stands on record: each cuts its period off at one revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from psycopg import Connection

from billing_exporter.gateway import Account
from metering.export_states import Positions
from metering.periods import Period
from runtime.locks import AdvisoryLock

BY_HAND = "by hand"
"""Stands for the invoice where a person settled a period."""


@dataclass(frozen=True)
class Cut:
    """The revision that an invoice billed."""

    positions: Positions
    follows: date | None
    total: Decimal


@dataclass(frozen=True)
class Final:
    """What an invoice billed of a (tenant, meter, period)."""

    invoice_id: str
    told: int
    """Units that the revision stands for, 0 without one."""
    revision: Cut | None
    """None: nothing of the period had come."""


def lock_finals(connection: Connection[Any], *, shared: bool = False) -> None:
    """Until the commit: whoever closes periods shares it, whoever says that an invoice is final has it alone."""
    name = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    connection.execute(f"SELECT {name}(%s)", (AdvisoryLock.EXPORT_FINALS,))


def finals_of(
    connection: Connection[Any], account: Account | None, keys: Sequence[tuple[str, date]]
) -> dict[str, dict[str, Final]]:
    """By tenant and meter, of these (tenant, first day of the period)."""
    if account is None or not keys:
        return {}
    rows = connection.execute(
        "SELECT f.tenant_id, f.meter, f.invoice_id, f.told, l.positions, l.follows, l.exact_total"
        " FROM export_finals f LEFT JOIN export_ledger l ON l.id = f.ledger_id"
        " WHERE f.account = %s AND f.livemode = %s"
        " AND (f.tenant_id, f.period_start) IN (SELECT * FROM unnest(%s::text[], %s::date[]))",
        (account.id, account.livemode, [tenant for tenant, _ in keys], [start for _, start in keys]),
    ).fetchall()
    found: dict[str, dict[str, Final]] = {}
    for tenant, meter, invoice, told, positions, follows, total in rows:
        cut = None if positions is None else Cut(positions, follows, total)
        found.setdefault(tenant, {})[meter] = Final(invoice, told, cut)
    return found


def record(
    connection: Connection[Any],
    account: Account,
    tenant_id: str,
    meter: str,
    period: Period,
    invoice_id: str,
    finalized_at: datetime,
    billed: int,
    ledger_id: int | None,
    told: int,
    now: datetime,
) -> bool:
    """Writes it down, in the caller's transaction; False where it stands there already."""
    found = connection.execute(
        "INSERT INTO export_finals (account, livemode, tenant_id, meter, period_start, period_end, invoice_id, finalized_at,"
        " billed, ledger_id, told, seen_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (account.id, account.livemode, tenant_id, meter, period.start, period.end, invoice_id, finalized_at, billed, ledger_id,
         told, now),
    )  # fmt: skip
    return found.rowcount == 1
