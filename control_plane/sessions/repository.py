"""The table of streaming sessions. Its rules are `metering.sessions`; what credits do is the ledger's (`store.credits`).

Statements run in the caller's transaction at READ COMMITTED; the caller commits. Beginning and ending a session is the way
that every stream takes, so these are statements for the driver, prepared once a connection.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast

from psycopg import Connection
from psycopg.types.json import Jsonb

from metering.credits import Overrun
from metering.rates import ModelPrice, Tokens
from metering.sessions import Ended, Ending, Session, SessionState
from meterline_schemas.types import Micros
from store.credits import Owner
from store.holds import decimal_of, micros_of


@dataclass(frozen=True)
class Agreed:
    """What a session is begun with, and keeps."""

    owner: Owner
    session_id: str
    """The client's own name of it, unique for its owner."""
    model_id: str
    price: ModelPrice
    overrun: Overrun
    estimated: Tokens
    held: Micros
    ttl: timedelta


@dataclass(frozen=True)
class Paid:
    """What a session that has ended was charged, in all."""

    charged: Micros
    refunded: Micros
    uncollected: Micros
    used: Tokens


@dataclass(frozen=True)
class Row:
    """A session."""

    id: uuid.UUID
    agreed: Agreed
    session: Session
    swept_at: datetime | None
    ended_at: datetime | None
    paid: Paid | None
    read_at: datetime
    """The server's clock when it was read."""


_COLUMNS: Final = """
       s.id, s.tenant_id, s.user_id, s.session_id, s.model_id, s.price, s.overrun, s.estimated, s.held, s.ttl_s, s.state,
       s.created_at, s.expires_at, s.reported, s.swept_at, s.ended_at, s.used, s.charged, s.refunded, s.uncollected,
       clock_timestamp()
"""

_INSERT = f"""
INSERT INTO streaming_sessions AS s (id, tenant_id, user_id, session_id, model_id, price, overrun, estimated, held, ttl_s,
                                     created_at, expires_at)
SELECT %(id)s, %(tenant)s, %(user)s, %(name)s, %(model)s, %(price)s, %(overrun)s, %(estimated)s, %(held)s, %(ttl)s,
       at.now, at.now + make_interval(secs => %(ttl)s)
  FROM (SELECT clock_timestamp() AS now) at
    ON CONFLICT (tenant_id, user_id, session_id) DO NOTHING
RETURNING {_COLUMNS}
"""

_NAMED = f"SELECT {_COLUMNS} FROM streaming_sessions s WHERE tenant_id = %s AND user_id = %s AND session_id = %s"
_NAMED_LOCKED = f"{_NAMED} FOR NO KEY UPDATE"

# By owner, so that of two sweepers neither waits for an account that the other has locked while it holds one that the other
# wants; those that it settles are skipped by whoever comes after it.
_DUE = f"""
WITH due AS (
    SELECT id FROM streaming_sessions WHERE state = 'active' AND expires_at <= statement_timestamp()
     ORDER BY expires_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
)
SELECT {_COLUMNS} FROM streaming_sessions s JOIN due USING (id) ORDER BY s.tenant_id, s.user_id, s.id
"""

_PROLONG = f"UPDATE streaming_sessions s SET expires_at = %s, reported = %s WHERE id = %s RETURNING {_COLUMNS}"

_END = f"""
UPDATE streaming_sessions s
   SET state = %(state)s, used = %(used)s, charged = %(charged)s, refunded = %(refunded)s, uncollected = %(uncollected)s,
       swept_at = CASE WHEN %(state)s = 'expired' THEN clock_timestamp() ELSE swept_at END,
       ended_at = CASE WHEN %(state)s = 'expired' THEN NULL ELSE clock_timestamp() END
 WHERE id = %(id)s
RETURNING {_COLUMNS}
"""

_PAGE = f"""
SELECT {_COLUMNS} FROM streaming_sessions s
 WHERE tenant_id = %(tenant)s AND (%(user)s::text IS NULL OR user_id = %(user)s)
   AND (NOT %(active)s::boolean OR state = 'active')
   AND (%(at)s::timestamptz IS NULL OR (created_at, id) < (%(at)s::timestamptz, %(id)s::uuid))
 ORDER BY created_at DESC, id DESC
 LIMIT %(count)s
"""


def insert(connection: Connection[Any], session_key: uuid.UUID, agreed: Agreed) -> Row | None:
    """Begins it; None where its owner has a session of that name, which then is to be seen."""
    parameters = {
        "id": session_key,
        "tenant": agreed.owner.tenant_id,
        "user": agreed.owner.user_id,
        "name": agreed.session_id,
        "model": agreed.model_id,
        "price": Jsonb(agreed.price.as_json()),
        "overrun": agreed.overrun,
        "estimated": _counts(agreed.estimated),
        "held": decimal_of(agreed.held),
        "ttl": agreed.ttl // timedelta(seconds=1),
    }
    row = connection.execute(_INSERT.encode(), parameters, prepare=True).fetchone()
    return None if row is None else _row(row)


def named(connection: Connection[Any], owner: Owner, session_id: str, *, locked: bool = False) -> Row | None:
    """The owner's session of that name; `locked` until the transaction ends, and then read as it is once the lock is had."""
    sql = _NAMED_LOCKED if locked else _NAMED
    row = connection.execute(sql.encode(), (owner.tenant_id, owner.user_id, session_id), prepare=True).fetchone()
    return None if row is None else _row(row)


def due(connection: Connection[Any], rows_max: int) -> list[Row]:
    """Orphans, locked until the transaction ends, by owner; those that another has locked are left out."""
    return [_row(row) for row in connection.execute(_DUE.encode(), (rows_max,), prepare=True)]


def prolong(connection: Connection[Any], row: Row, session: Session) -> Row:
    """Writes what a heartbeat made of it."""
    parameters = (session.expires_at, _counts(session.reported), row.id)
    changed = connection.execute(_PROLONG.encode(), parameters, prepare=True).fetchone()
    assert changed is not None
    return _row(changed)


def end(connection: Connection[Any], row: Row, state: SessionState, paid: Paid) -> Row:
    """Writes how it ended and what was paid for it in all."""
    parameters = {
        "id": row.id,
        "state": state.value,
        "used": _counts(paid.used),
        "charged": decimal_of(paid.charged),
        "refunded": decimal_of(paid.refunded),
        "uncollected": decimal_of(paid.uncollected),
    }
    changed = connection.execute(_END.encode(), parameters, prepare=True).fetchone()
    assert changed is not None
    return _row(changed)


def page(
    connection: Connection[Any],
    tenant_id: str,
    user_id: str | None,
    *,
    only_active: bool,
    after: tuple[datetime, uuid.UUID] | None,
    count: int,
) -> list[Row]:
    """The newest first, behind the one that was begun at that time with that id. Without a user: all of the tenant."""
    at, key = after or (None, None)
    parameters = {"tenant": tenant_id, "user": user_id, "active": only_active, "at": at, "id": key, "count": count}
    return [_row(row) for row in connection.execute(_PAGE, parameters)]


def _counts(tokens: Tokens) -> list[int]:
    return [tokens.input, tokens.output, tokens.cached]


def _row(row: Sequence[Any]) -> Row:
    (
        key, tenant_id, user_id, session_id, model_id, price, overrun, estimated, held, ttl_s, state,
        created_at, expires_at, reported, swept_at, ended_at, used, charged, refunded, uncollected, read_at,
    ) = row  # fmt: skip
    agreed = Agreed(
        Owner(tenant_id, user_id),
        session_id,
        model_id,
        ModelPrice.of_json(price),
        overrun,
        Tokens(*estimated),
        micros_of(held),
        timedelta(seconds=ttl_s),
    )
    paid = None
    if used is not None:
        paid = Paid(micros_of(charged), micros_of(refunded), micros_of(uncollected), Tokens(*used))
    ending = None
    if ended_at is not None:
        assert paid is not None
        ending = Ending(cast(Ended, SessionState(state)), paid.used)
    session = Session(
        created_at, expires_at, Tokens(*reported), SessionState(state), ending, late=None not in (ended_at, swept_at)
    )
    return Row(key, agreed, session, swept_at, ended_at, paid, read_at)
