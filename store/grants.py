"""What the application's own role may do, where it is another than the owner of the tables.

It reads and writes every table, and to the audit trail it only adds: an application that was broken into cannot rewrite what
it did. Old rows go by the function `audit_drop`, which takes none that is younger than a day.
"""

from __future__ import annotations

from typing import Any

from psycopg import Connection, sql

_STATEMENTS = (
    "GRANT USAGE ON SCHEMA public TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
    "REVOKE UPDATE, DELETE, TRUNCATE ON audit FROM {role}",
)


def grant(connection: Connection[Any], role: str) -> None:
    """Grants it, in the caller's transaction. Repeating it changes nothing. Raises psycopg.Error where there is no such role."""
    for statement in _STATEMENTS:
        connection.execute(sql.SQL(statement).format(role=sql.Identifier(role)))
