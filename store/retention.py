"""What has done its work is dropped after its time: sent outbox rows, finished inbox rows, finished holds, old audit rows,
answers kept under idempotency keys.

Rejects are ClickHouse's to drop, by the TTL that `store.migrate` sets; the deltas topic is Kafka's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection

from runtime.settings import Settings

BATCH_ROWS = 5_000
BATCHES_MAX = 20
"""Of each table in one sweep, so that a sweep ends; the next one goes on."""

_STATEMENTS = {
    "outbox": (
        "DELETE FROM outbox WHERE id IN"
        " (SELECT id FROM outbox WHERE sent_at < %s"
        # Its record may have to be sent again as long as the hold waits for it.
        "   AND NOT EXISTS (SELECT FROM holds WHERE holds.outbox_id = outbox.id AND holds.done_at IS NULL)"
        "  ORDER BY sent_at LIMIT %s FOR UPDATE SKIP LOCKED)"
    ),
    "inbox": (
        "DELETE FROM inbox WHERE (source, account, livemode, message_id) IN"
        " (SELECT source, account, livemode, message_id FROM inbox WHERE done_at < %s"
        "  ORDER BY done_at LIMIT %s FOR UPDATE SKIP LOCKED)"
    ),
    "holds": (
        "DELETE FROM holds WHERE hold_id IN"
        " (SELECT hold_id FROM holds WHERE done_at < %s ORDER BY done_at LIMIT %s FOR UPDATE SKIP LOCKED)"
    ),
    "usage_alerts": (
        "DELETE FROM usage_alerts WHERE alert_id IN"
        " (SELECT alert_id FROM usage_alerts WHERE period_end < %s AND state <> 'waiting'"
        "  ORDER BY period_end LIMIT %s FOR UPDATE SKIP LOCKED)"
    ),
    "idempotency_keys": (
        "DELETE FROM idempotency_keys WHERE (who, key) IN"
        " (SELECT who, key FROM idempotency_keys WHERE started_at < %s ORDER BY started_at LIMIT %s FOR UPDATE SKIP LOCKED)"
    ),
    # The one way to drop them, as a row for each that it dropped.
    "audit": "SELECT generate_series(1, audit_drop(%s, %s))",
}


@dataclass(frozen=True)
class Swept:
    """Rows dropped, by table, and whether one had more than a sweep takes."""

    rows: dict[str, int]
    more: bool


def sweep(connection: Connection[Any], settings: Settings, now: datetime) -> Swept:
    """Drops what is past its time at `now`, a batch a transaction. Safe with several at once: they skip each other's rows.

    Rows that wait (unsent, unfinished, held) are never dropped. 0 days of audit means for ever.
    """
    days = {
        "outbox": settings.outbox_keep_days,
        "inbox": settings.inbox_keep_days,
        "holds": settings.holds_keep_days,
        "usage_alerts": settings.alerts_keep_days,
        "idempotency_keys": settings.idempotency_keep_days,
        "audit": settings.audit_keep_days,
    }
    rows, more = {}, False
    for table, keep_days in days.items():
        if keep_days == 0:
            rows[table] = 0
            continue
        before = now - timedelta(days=keep_days)
        rows[table], exhausted = _sweep_table(connection, _STATEMENTS[table], before)
        more = more or not exhausted
    return Swept(rows, more)


def _sweep_table(connection: Connection[Any], statement: str, before: datetime) -> tuple[int, bool]:
    dropped = 0
    for _ in range(BATCHES_MAX):
        with connection.transaction():
            count = connection.execute(statement, (before, BATCH_ROWS)).rowcount
        dropped += count
        if count < BATCH_ROWS:
            return dropped, True
    return dropped, False
