"""Webhooks that were taken, until they are worked off. Statements run in the caller's transaction; the caller commits.

A row is written before its sender hears 2xx. Who works on one has it for LEASE; when it dies, another takes it after that. So
a row may be worked on more than once, and what is done about it must bear that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

from psycopg import Connection

State = Literal["waiting", "done", "dead"]

LEASE: Final = timedelta(seconds=120)
ERROR_CHARS_MAX: Final = 500


class Name(NamedTuple):
    """What names a webhook for ever."""

    source: str
    account: str
    livemode: bool
    message_id: str


@dataclass(frozen=True)
class Taken:
    """A row that is due, taken by the caller."""

    name: Name
    kind: str
    subject: str
    kept: dict[str, Any]
    received_at: datetime
    attempts: int
    """This one included."""


@dataclass(frozen=True)
class Row:
    """A row, for people."""

    name: Name
    kind: str
    subject: str
    state: State
    attempts: int
    received_at: datetime
    next_try_at: datetime | None
    last_error: str | None


_NAME = "source, account, livemode, message_id"
_IS = "source = %s AND account = %s AND livemode = %s AND message_id = %s"
_WAITS = "done_at IS NULL AND dead_at IS NULL"

_PUT = f"INSERT INTO inbox ({_NAME}, kind, subject, body) VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"

_TAKE = f"""
UPDATE inbox
   SET attempts = attempts + 1, next_try_at = statement_timestamp() + %s
 WHERE ({_NAME}) IN (SELECT {_NAME} FROM inbox WHERE {_WAITS} AND next_try_at <= statement_timestamp()
                      ORDER BY next_try_at LIMIT %s FOR UPDATE SKIP LOCKED)
RETURNING {_NAME}, kind, subject, body, received_at, attempts
"""

_DONE = f"UPDATE inbox SET done_at = statement_timestamp(), last_error = NULL WHERE {_IS} AND {_WAITS}"

_FAILED = f"""
UPDATE inbox
   SET last_error = %s, next_try_at = statement_timestamp() + coalesce(%s::interval, '0'),
       dead_at = CASE WHEN %s::interval IS NULL THEN statement_timestamp() END
 WHERE {_IS} AND {_WAITS}
"""

_LIST = f"""
SELECT {_NAME}, kind, subject,
       CASE WHEN done_at IS NOT NULL THEN 'done' WHEN dead_at IS NOT NULL THEN 'dead' ELSE 'waiting' END,
       attempts, received_at, CASE WHEN {_WAITS} THEN next_try_at END, last_error
  FROM inbox
 WHERE (%(source)s::text IS NULL OR source = %(source)s)
   AND (%(state)s::text IS NULL OR %(state)s = CASE WHEN done_at IS NOT NULL THEN 'done'
                                                  WHEN dead_at IS NOT NULL THEN 'dead' ELSE 'waiting' END)
 ORDER BY received_at DESC, message_id LIMIT %(rows)s
"""

_REPLAY = """
UPDATE inbox SET done_at = NULL, dead_at = NULL, attempts = 0, next_try_at = statement_timestamp()
 WHERE num_nonnulls(done_at, dead_at) = 1 AND source = %(source)s
   AND (message_id = %(id)s OR (%(id)s::text IS NULL AND dead_at IS NOT NULL))
"""


def put(connection: Connection[Any], name: Name, kind: str, subject: str, kept: dict[str, Any]) -> bool:
    """Keeps a webhook; False when it was kept before."""
    body = json.dumps(kept, ensure_ascii=False).encode()
    return connection.execute(_PUT, (*name, kind, subject, body)).rowcount == 1


def take(connection: Connection[Any], rows_max: int) -> list[Taken]:
    """Rows that are due, taken for LEASE once the caller commits; oldest received first."""
    rows = connection.execute(_TAKE, (LEASE, rows_max)).fetchall()
    found = [Taken(Name(*row[:4]), row[4], row[5], json.loads(bytes(row[6])), row[7], row[8]) for row in rows]
    return sorted(found, key=lambda taken: taken.received_at)


def done(connection: Connection[Any], name: Name) -> None:
    """It is worked off."""
    connection.execute(_DONE, name)


def failed(connection: Connection[Any], name: Name, error: str, wait: timedelta | None) -> None:
    """Tried without success: due again after `wait`, or dead."""
    connection.execute(_FAILED, (error[:ERROR_CHARS_MAX], wait, wait, *name))


def listed(connection: Connection[Any], source: str | None, state: State | None, rows_max: int) -> list[Row]:
    """The newest first."""
    rows = connection.execute(_LIST, {"source": source, "state": state, "rows": rows_max})
    return [Row(Name(*row[:4]), *row[4:]) for row in rows]


def replay(connection: Connection[Any], source: str, message_id: str | None) -> int:
    """Makes a finished or dead row due again, or every dead one of the source; of how many."""
    return connection.execute(_REPLAY, {"source": source, "id": message_id}).rowcount
