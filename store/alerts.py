"""The alerts that were raised, and the telling of each. Statements run in the caller's transaction; the caller commits."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from psycopg import Connection
from psycopg.types.json import Jsonb

from meterline_schemas.alert import ALERT_SCHEMA_VERSION, Alert, encode_alert
from meterline_schemas.event import SCHEMA_VERSION_HEADER
from runtime.locks import AdvisoryLock
from store.holds import decimal_of, micros_of

State = Literal["waiting", "delivered", "dead", "record_only"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

LEASE = timedelta(seconds=60)
"""Who takes a telling has it for so long; when it dies, another takes it after that."""


class Changed(NamedTuple):
    """A total that changed, and what its tenant's plan says of it."""

    tenant_id: str
    usage_type: str
    changed_at: datetime
    thresholds: Sequence[int]
    limit_period: Any
    anchor_day: int


@dataclass(frozen=True)
class Telling:
    """A webhook that is due, taken by the caller."""

    alert_id: uuid.UUID
    alert: Alert
    attempts: int
    """This one included."""


@dataclass(frozen=True)
class Raised:
    """A row of usage_alerts, for people."""

    alert_id: uuid.UUID
    alert: Alert
    state: State
    attempts: int
    next_try_at: datetime | None
    last_error: str | None


_LOCK = f"SELECT pg_try_advisory_xact_lock({AdvisoryLock.ALERTS.value})"

_CHANGED = """
SELECT u.tenant_id, u.usage_type, u.changed_at, p.alerts, coalesce(own.period, l.period), t.anchor_day
  FROM usage_totals u
  LEFT JOIN tenants t ON t.tenant_id = u.tenant_id
  LEFT JOIN plans p ON p.plan_id = t.plan_id
  LEFT JOIN plan_limits l ON l.plan_id = t.plan_id AND l.usage_type = u.usage_type
  LEFT JOIN tenant_limits own ON own.tenant_id = t.tenant_id AND own.usage_type = u.usage_type
 WHERE u.changed_at > %s AND (u.changed_at, u.tenant_id, u.usage_type) > (%s, %s, %s)
 ORDER BY u.changed_at, u.tenant_id, u.usage_type
 LIMIT %s
"""

_RAISE = """
WITH raised AS (
    INSERT INTO usage_alerts (alert_id, tenant_id, usage_type, limit_period, period_start, period_end, threshold, used,
                              limit_quantity, hard_stop, raised_at, state, next_try_at)
    VALUES (%(id)s, %(tenant)s, %(type)s, %(period)s, %(start)s, %(end)s, %(threshold)s, %(used)s, %(limit)s, %(hard)s, %(at)s,
            CASE WHEN %(tell)s THEN 'waiting' ELSE 'record_only' END, CASE WHEN %(tell)s THEN %(at)s::timestamptz END)
    ON CONFLICT (alert_id) DO NOTHING
    RETURNING alert_id
)
INSERT INTO outbox (topic, record_key, value, headers)
SELECT %(topic)s, %(key)s, %(value)s, %(headers)s FROM raised
"""

_ALERT = """a.tenant_id, a.usage_type, a.limit_period, a.period_start, a.period_end, a.threshold, a.used, a.limit_quantity,
          a.hard_stop, a.raised_at"""

_TAKE = f"""
UPDATE usage_alerts a
   SET attempts = a.attempts + 1, next_try_at = statement_timestamp() + %s
 WHERE alert_id IN (SELECT alert_id FROM usage_alerts WHERE state = 'waiting' AND next_try_at <= statement_timestamp()
                     ORDER BY next_try_at LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING a.alert_id, a.attempts, {_ALERT}
"""

_TOLD = """
UPDATE usage_alerts SET state = 'delivered', delivered_at = statement_timestamp(), next_try_at = NULL, last_error = NULL
 WHERE alert_id = %s AND state = 'waiting'
"""

_NOT_TOLD = """
UPDATE usage_alerts
   SET last_error = %s, state = CASE WHEN %s::int IS NULL THEN 'dead' ELSE state END,
       next_try_at = statement_timestamp() + make_interval(secs => %s::int)
 WHERE alert_id = %s AND state = 'waiting'
"""

_LIST = f"""
SELECT a.alert_id, a.state, a.attempts, a.next_try_at, a.last_error, {_ALERT} FROM usage_alerts a
 WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(tenant)s::text IS NULL OR tenant_id = %(tenant)s)
 ORDER BY raised_at DESC, alert_id LIMIT %(rows)s
"""

_REPLAY = """
UPDATE usage_alerts SET state = 'waiting', attempts = 0, next_try_at = statement_timestamp(), delivered_at = NULL
 WHERE state <> 'waiting' AND (alert_id = %(id)s OR (%(id)s::uuid IS NULL AND state = 'dead'))
"""


def only_one_looks(connection: Connection[Any]) -> bool:
    """Whether the caller's transaction is the one that looks for thresholds now."""
    return connection.execute(_LOCK).fetchone() == (True,)


def looked_until(connection: Connection[Any]) -> datetime:
    """Up to when changes were looked at."""
    row = connection.execute("SELECT greatest(looked_until, '1970-01-01Z') FROM alert_progress").fetchone()
    assert row is not None
    at = row[0]
    assert isinstance(at, datetime)
    return at.astimezone(UTC)


def look_on(connection: Connection[Any], until: datetime) -> None:
    """Notes it."""
    connection.execute("UPDATE alert_progress SET looked_until = %s", (until,))


def changed_since(connection: Connection[Any], since: datetime, after: tuple[datetime, str, str], rows_max: int) -> list[Changed]:
    """A page of the totals that changed since then, in the order of their change, behind the place `after`."""
    return [Changed(*row) for row in connection.execute(_CHANGED, (since, *after, rows_max))]


def known(connection: Connection[Any], alert_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those that were raised before."""
    if not alert_ids:
        return set()
    rows = connection.execute("SELECT alert_id FROM usage_alerts WHERE alert_id = ANY(%s)", (list(alert_ids),))
    return {alert_id for (alert_id,) in rows}


def raise_alert(connection: Connection[Any], alert: Alert, topic: str, *, tell: bool) -> bool:
    """Writes the alert and promises its record, unless it was raised before; whether it was new."""
    parameters = {
        "id": alert.alert_id,
        "tenant": alert.tenant_id,
        "type": alert.usage_type,
        "period": alert.limit_period,
        "start": alert.period_start,
        "end": alert.period_end,
        "threshold": alert.threshold,
        "used": decimal_of(alert.used),
        "limit": decimal_of(alert.limit),
        "hard": alert.hard_stop,
        "value": encode_alert(alert),
        "at": _EPOCH + alert.raised_at_ms * _MS,
        "tell": tell,
        "topic": topic,
        "key": alert.tenant_id.encode(),
        "headers": Jsonb({SCHEMA_VERSION_HEADER: str(ALERT_SCHEMA_VERSION)}),
    }
    return connection.execute(_RAISE, parameters).rowcount == 1


def take_due(connection: Connection[Any], rows_max: int) -> list[Telling]:
    """Webhooks that are due, taken for LEASE once the caller commits."""
    rows = connection.execute(_TAKE, (LEASE, rows_max))
    return [Telling(row[0], _alert(row[2:]), row[1]) for row in rows]


def told(connection: Connection[Any], alert_id: uuid.UUID) -> None:
    """The receiver has it."""
    connection.execute(_TOLD, (alert_id,))


def not_told(connection: Connection[Any], alert_id: uuid.UUID, error: str, wait_s: int | None) -> None:
    """It has not; tried again after `wait_s`, or never again by itself."""
    connection.execute(_NOT_TOLD, (error, wait_s, wait_s, alert_id))


def list_alerts(connection: Connection[Any], state: State | None, tenant_id: str | None, rows_max: int) -> list[Raised]:
    """The newest first."""
    rows = connection.execute(_LIST, {"state": state, "tenant": tenant_id, "rows": rows_max})
    return [Raised(row[0], _alert(row[5:]), *row[1:5]) for row in rows]


def replay(connection: Connection[Any], alert_id: uuid.UUID | None) -> int:
    """Tells of the alert again, or of every dead one; of how many."""
    return connection.execute(_REPLAY, {"id": alert_id}).rowcount


def _alert(row: tuple[Any, ...]) -> Alert:
    tenant_id, usage_type, period, start, end, threshold, used, limit, hard_stop, raised_at = row
    raised_ms = (raised_at - _EPOCH) // _MS
    return Alert(tenant_id, usage_type, period, start, end, threshold, micros_of(used), micros_of(limit), hard_stop, raised_ms)
