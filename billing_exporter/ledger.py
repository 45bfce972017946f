"""The export ledger in Postgres: every statement that reads or moves its rows.

Each function is one statement, or a transaction within the caller's, so that a connection may be in autocommit.

Leases run on the database's clock, so that machines whose clocks differ agree; ages (`next_try_at`, `first_sent_at`) run on
the exporter's `now`, so that a test can move it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, scalar_row

from billing_exporter.gateway import Account, MeterEvent
from metering.export_states import Mode, Positions, State, Step
from metering.periods import Period
from runtime import postgres
from runtime.settings import Settings

BEGUN: tuple[State, ...] = ("sending", "retry_wait")
"""States of rows that were sent and have no answer yet."""

DUE: tuple[State, ...] = ("planned", "sending", "retry_wait")
"""States of rows that want to be sent."""

ROWS_OF_TENANT_MAX = 100
"""Most rows that one claim takes."""

REASON_CHARS_MAX = 1_000


@dataclass(frozen=True)
class Row:
    """One revision, as it stands in the ledger."""

    id: int
    tenant_id: str
    customer_id: str
    meter: str
    period_start: date
    period_end: date
    revision: int
    identifier: str
    exact_total: Decimal
    value: int
    remainder: Decimal
    event_time: datetime
    positions: Positions
    state: State
    reason: str | None
    attempts: int
    first_sent_at: datetime | None
    next_try_at: datetime | None
    changed_at: datetime
    lease_token: uuid.UUID | None
    mode: Mode
    follows: date | None
    """Start of the closed period that the total continues; None: it is of the period's own days."""
    carried: Decimal

    @property
    def period(self) -> Period:
        """Its billing period."""
        return Period(self.period_start, self.period_end)

    @property
    def event(self) -> MeterEvent:
        """The frozen payload."""
        return MeterEvent(self.meter, self.customer_id, self.identifier, self.value, self.event_time)


COLUMNS = (
    "id, tenant_id, customer_id, meter, period_start, period_end, revision, identifier, exact_total, value, remainder,"
    " event_time, positions, state, reason, attempts, first_sent_at, next_try_at, changed_at, lease_token,"
    " mode, follows, carried"
)


def _due(states: Sequence[State]) -> str:
    """The condition of a row that may be claimed. The states stand in the text: a parameter would hide them from the
    planner, and the index of due rows with them."""
    names = ", ".join(f"'{state}'" for state in states)
    return (
        f"account = %(account)s AND livemode = %(livemode)s AND state IN ({names})"
        " AND (next_try_at IS NULL OR next_try_at <= %(now)s)"
        " AND (lease_until IS NULL OR lease_until < clock_timestamp())"
        " AND NOT tenant_id = ANY(%(held)s)"
    )


def _claim(states: Sequence[State]) -> str:
    due = _due(states)
    return f"""
WITH first AS (
    SELECT tenant_id FROM export_ledger WHERE {due} ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
), mine AS (
    SELECT id FROM export_ledger WHERE tenant_id = (SELECT tenant_id FROM first) AND {due}
    ORDER BY id LIMIT {ROWS_OF_TENANT_MAX} FOR UPDATE SKIP LOCKED
)
UPDATE export_ledger SET lease_token = %(token)s, lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE id IN (SELECT id FROM mine)
RETURNING {COLUMNS}
"""


# Each transition is put on record by a trigger of the table.
_MOVE = """
UPDATE export_ledger SET
    state = %(state)s, reason = %(reason)s, next_try_at = %(next_try_at)s, changed_at = %(now)s,
    attempts = attempts + %(attempt)s, first_sent_at = coalesce(first_sent_at, %(sent_at)s),
    lease_token = CASE WHEN %(keep)s THEN lease_token END,
    lease_until = CASE WHEN %(keep)s THEN clock_timestamp() + make_interval(secs => %(lease_s)s) END
WHERE id = %(id)s AND state = %(from_state)s
  AND lease_token IS NOT DISTINCT FROM %(token)s
  AND (NOT %(keep)s OR lease_until > clock_timestamp())
"""

_MOVE_ALONE = f"{_MOVE} RETURNING id"

# One statement, so that no revision is accepted without those before it being replaced.
_MOVE_AND_REPLACE = f"""
WITH newer AS ({_MOVE} RETURNING *), replaced AS (
    UPDATE export_ledger older SET state = 'superseded', reason = 'revision ' || newer.revision || ' took its place',
        changed_at = %(now)s
    FROM newer
    WHERE (older.account, older.livemode, older.tenant_id, older.meter, older.period_start) =
      (newer.account, newer.livemode, newer.tenant_id, newer.meter, newer.period_start)
      AND older.revision < newer.revision AND older.state IN ('accepted', 'confirmed', 'rejected', 'manual')
)
SELECT id FROM newer
"""


def connect(settings: Settings, *, autocommit: bool = False) -> Connection[Any]:
    """A connection whose statements are planned afresh each time: a plan that was kept from when the ledger was empty
    reads all of it for each row, seen to take a hundred times as long."""
    connection = postgres.connect(settings, autocommit=autocommit)
    connection.prepare_threshold = None
    return connection


def remember_account(connection: Connection[Any], digest: bytes, account: Account) -> None:
    """Keeps whose key it is, for dry runs."""
    connection.execute(
        "INSERT INTO stripe_accounts (key_digest, account, livemode) VALUES (%s, %s, %s)"
        " ON CONFLICT (key_digest) DO UPDATE SET account = excluded.account, livemode = excluded.livemode, seen_at = now()",
        (digest, account.id, account.livemode),
    )


def known_account(connection: Connection[Any], digest: bytes) -> Account | None:
    """The account of a key that was used before."""
    row = connection.execute("SELECT account, livemode FROM stripe_accounts WHERE key_digest = %s", (digest,)).fetchone()
    return None if row is None else Account(row[0], row[1])


def live_account(connection: Connection[Any]) -> Account | None:
    """The live account that totals of this database were planned for."""
    row = connection.execute("SELECT account FROM export_heads WHERE livemode LIMIT 1").fetchone()
    return None if row is None else Account(row[0], True)


def claim(
    connection: Connection[Any], account: Account, states: Sequence[State], held: Sequence[str], now: datetime, lease_s: float
) -> list[Row]:
    """Leases the due rows of one tenant that nobody else has; empty when there is none. Tenants in `held` are passed over."""
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        rows = cursor.execute(
            _claim(states),
            {
                "account": account.id,
                "livemode": account.livemode,
                "now": now,
                "held": list(held),
                "lease_s": lease_s,
                "token": uuid.uuid4(),
            },
        ).fetchall()
    return sorted(rows, key=lambda row: row.id)


def due_tenants(
    connection: Connection[Any], account: Account, states: Sequence[State], held: Sequence[str], now: datetime, most: int
) -> int:
    """How many tenants have a row to claim, at most `most`."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        found = cursor.execute(
            f"SELECT count(*) FROM (SELECT DISTINCT tenant_id FROM export_ledger WHERE {_due(states)} LIMIT %(most)s) AS due",
            {
                "account": account.id,
                "livemode": account.livemode,
                "now": now,
                "held": list(held),
                "most": most,
            },
        ).fetchone()
        assert isinstance(found, int)
        return found


def begin_send(connection: Connection[Any], row: Row, now: datetime, lease_s: float) -> bool:
    """Moves a leased row to `sending` and renews its lease; False when the lease is gone. To be committed before the call."""
    return _move(connection, row, Step("sending"), now, row.lease_token, keep=True, lease_s=lease_s, sent_at=now)


def settle(connection: Connection[Any], row: Row, from_state: State, step: Step, now: datetime) -> bool:
    """Moves a leased row where its answer takes it and gives the lease back; False when the lease was lost meanwhile.

    A row that is accepted takes the place of the revisions of its period before it.
    """
    return _move(connection, row, step, now, row.lease_token, from_state=from_state)


def move_unleased(connection: Connection[Any], row: Row, step: Step, now: datetime) -> bool:
    """Moves a row that nobody sends, if it is still as it was read. Accepted, it takes the place of those before it."""
    return _move(connection, row, step, now, row.lease_token)


def move_through(
    connection: Connection[Any], row_id: int, state: State, path: Sequence[State], reason: str, now: datetime
) -> bool:
    """Moves a row that the caller has locked through these states, and gives its lease back; False where there is no path."""
    for to_state in path:
        connection.execute(
            "UPDATE export_ledger SET state = %s, reason = %s, changed_at = %s, lease_token = NULL, lease_until = NULL,"
            " next_try_at = NULL WHERE id = %s AND state = %s",
            (to_state, reason[:REASON_CHARS_MAX], now, row_id, state),
        )
        state = to_state
    return bool(path)


def _move(
    connection: Connection[Any],
    row: Row,
    step: Step,
    now: datetime,
    token: uuid.UUID | None,
    *,
    from_state: State | None = None,
    keep: bool = False,
    lease_s: float = 0.0,
    sent_at: datetime | None = None,
) -> bool:
    found = connection.execute(
        # Stripe shows the newest revision of a `last` meter only.
        _MOVE_AND_REPLACE if step.state == "accepted" and row.mode == "last" else _MOVE_ALONE,
        {
            "id": row.id,
            "from_state": from_state or row.state,
            "state": step.state,
            "reason": step.reason[:REASON_CHARS_MAX] or None,
            "next_try_at": step.next_try_at,
            "now": now,
            "attempt": 1 if keep else 0,
            "sent_at": sent_at,
            "keep": keep,
            "lease_s": lease_s,
            "token": token,
        },
    ).fetchone()
    return found is not None


def hold(connection: Connection[Any], rows: Sequence[Row], reason: str, now: datetime) -> None:
    """Keeps planned rows from being sent in this run, with the reason beside them; the next run looks again."""
    with connection.transaction():
        connection.execute(
            "UPDATE export_ledger SET reason = %(reason)s, changed_at = %(now)s, lease_token = NULL, lease_until = NULL"
            " WHERE id = ANY(%(ids)s) AND state = 'planned' AND lease_token = ANY(%(tokens)s)"
            " AND reason IS DISTINCT FROM %(reason)s",
            {
                "ids": [row.id for row in rows],
                "tokens": [row.lease_token for row in rows],
                "reason": reason[:REASON_CHARS_MAX],
                "now": now,
            },
        )
        release(connection, rows)


def note(connection: Connection[Any], row: Row, reason: str) -> None:
    """Writes a reason beside a row that stays in its state; since when it is there does not change."""
    connection.execute(
        "UPDATE export_ledger SET reason = %s WHERE id = %s AND state = %s",
        (reason[:REASON_CHARS_MAX] or None, row.id, row.state),
    )


def release(connection: Connection[Any], rows: Sequence[Row]) -> None:
    """Gives leases back without moving the rows."""
    connection.execute(
        "UPDATE export_ledger SET lease_token = NULL, lease_until = NULL WHERE id = ANY(%s) AND lease_token = ANY(%s)",
        ([row.id for row in rows], [row.lease_token for row in rows]),
    )


def release_unbegun(connection: Connection[Any], rows: Sequence[Row]) -> None:
    """Gives back the leases of rows that were claimed and left alone; one in `sending` keeps its own until it ends."""
    connection.execute(
        "UPDATE export_ledger SET lease_token = NULL, lease_until = NULL"
        " WHERE id = ANY(%s) AND lease_token = ANY(%s) AND state IN ('planned', 'retry_wait')",
        ([row.id for row in rows], [row.lease_token for row in rows]),
    )


def row_of(connection: Connection[Any], account: Account, row_id: int) -> Row | None:
    """One row by its number."""
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        return cursor.execute(
            f"SELECT {COLUMNS} FROM export_ledger WHERE id = %s AND account = %s AND livemode = %s",
            (row_id, account.id, account.livemode),
        ).fetchone()


def try_now(connection: Connection[Any], row: Row, now: datetime) -> bool:
    """Makes a waiting row due, if it still waits."""
    found = connection.execute(
        "UPDATE export_ledger SET next_try_at = %s, changed_at = %s WHERE id = %s AND state = 'retry_wait'", (now, now, row.id)
    )
    return found.rowcount == 1


def unsent_of(connection: Connection[Any], account: Account, tenant_id: str) -> list[Row]:
    """The planned rows of a tenant, leased or not."""
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        return cursor.execute(
            f"SELECT {COLUMNS} FROM export_ledger WHERE account = %s AND livemode = %s AND tenant_id = %s AND state = 'planned'"
            " ORDER BY id",
            (account.id, account.livemode, tenant_id),
        ).fetchall()


def soonest_try(connection: Connection[Any], account: Account) -> datetime | None:
    """When the next waiting row is due."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        found: datetime | None = cursor.execute(
            "SELECT min(next_try_at) FROM export_ledger WHERE account = %s AND livemode = %s AND state = 'retry_wait'",
            (account.id, account.livemode),
        ).fetchone()
        return found


def in_states(
    connection: Connection[Any], account: Account, states: Sequence[State], starts: Sequence[date] | None = None
) -> list[Row]:
    """Rows in these states, by tenant, meter and period; of the periods that start on these days when they are given."""
    with connection.cursor(row_factory=class_row(Row)) as cursor:
        return cursor.execute(
            f"SELECT {COLUMNS} FROM export_ledger WHERE account = %(account)s AND livemode = %(livemode)s"
            " AND state = ANY(%(states)s) AND (%(starts)s::date[] IS NULL OR period_start = ANY(%(starts)s))"
            " ORDER BY tenant_id, meter, period_start, revision",
            {
                "account": account.id,
                "livemode": account.livemode,
                "states": list(states),
                "starts": None if starts is None else list(starts),
            },
        ).fetchall()


def shown_without(connection: Connection[Any], ids: Sequence[int]) -> dict[int, list[int]]:
    """What Stripe may show where these rows did not come through: under `last` 0 or any older revision of the period that was
    sent, under `sum` those before it that it took, added up."""
    took = "o.state IN ('accepted', 'confirmed', 'closed', 'carry_forward')"
    found = connection.execute(
        "SELECT l.id, CASE WHEN l.mode = 'sum'"
        f"  THEN array[coalesce(sum(o.value) FILTER (WHERE {took}), 0)::bigint]"
        "  ELSE array_agg(DISTINCT coalesce(o.value, 0)) || 0::bigint END"
        " FROM export_ledger l LEFT JOIN export_ledger o ON (o.account, o.livemode, o.tenant_id, o.meter, o.period_start) ="
        "  (l.account, l.livemode, l.tenant_id, l.meter, l.period_start)"
        "  AND o.revision < l.revision AND o.first_sent_at IS NOT NULL"
        " WHERE l.id = ANY(%s) GROUP BY l.id, l.mode",
        (list(ids),),
    ).fetchall()
    return {int(row_id): [int(value) for value in values] for row_id, values in found}


def confirm_older(connection: Connection[Any], row: Row, now: datetime) -> None:
    """Under `sum` the summary that confirms a revision confirms those before it, too."""
    connection.execute(
        "UPDATE export_ledger older SET state = 'confirmed', reason = NULL, changed_at = %s FROM export_ledger newer"
        " WHERE newer.id = %s AND (older.account, older.livemode, older.tenant_id, older.meter, older.period_start) ="
        "  (newer.account, newer.livemode, newer.tenant_id, newer.meter, newer.period_start)"
        "  AND older.revision < newer.revision AND older.state = 'accepted'",
        (now, row.id),
    )


def acting(connection: Connection[Any], who: str) -> None:
    """Puts a person's name beside every transition of this transaction."""
    connection.execute("SELECT set_config('meterline.actor', %s, true)", (who,))
