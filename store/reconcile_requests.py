"""Requests to the exporter to compare its ledger with what Stripe shows, before its schedule would. The caller commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg import Connection

TOGETHER_MAX: Final = 1_000


def ask(connection: Connection[Any], reason: str) -> None:
    """Asks for it. Many that ask before the next run are served by one."""
    connection.execute("INSERT INTO reconcile_requests (reason) VALUES (%s)", (reason,))


def waiting(connection: Connection[Any]) -> list[int]:
    """The requests that a comparison begun after this call serves."""
    rows = connection.execute("SELECT id FROM reconcile_requests ORDER BY id LIMIT %s", (TOGETHER_MAX,)).fetchall()
    return [int(request) for (request,) in rows]


def served(connection: Connection[Any], requests: Sequence[int]) -> None:
    """Drops them."""
    connection.execute("DELETE FROM reconcile_requests WHERE id = ANY(%s)", (list(requests),))
