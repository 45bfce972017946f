"""The audit trail: who changed what, before and after. Written in the transaction of the change; never rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from psycopg import Connection


@dataclass(frozen=True)
class Entry:
    """One change. `before` and `after` are JSON values; None where there was, or is, nothing."""

    what: str
    subject: str
    before: Any = None
    after: Any = None
    tenant_id: str | None = None
    """Whose admin may read it; None: the operator's alone."""


def record(connection: Connection[Any], who: str, entries: Iterable[Entry], request_id: str | None = None) -> None:
    """Adds the entries, in the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO audit (who, what, subject, before, after, request_id, tenant_id) VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [
                (who, entry.what, entry.subject, _json(entry.before), _json(entry.after), request_id, entry.tenant_id)
                for entry in entries
            ],
        )


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
