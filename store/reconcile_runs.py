"""The outcomes of reconcile, kept for the metric that a running stage shows of them.

Statements run in the caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection

RUNS_KEPT = 1_000


@dataclass(frozen=True)
class Run:
    """One run: how many findings each invariant had."""

    at: datetime
    ok: bool
    findings: dict[str, int]


def record(connection: Connection[Any], who: str, ok: bool, findings: Mapping[str, int]) -> None:
    """Adds a run, and drops what is older than the newest RUNS_KEPT."""
    connection.execute(
        "INSERT INTO reconcile_runs (who, ok, findings) VALUES (%s, %s, %s)",
        (who, ok, json.dumps(dict(findings), sort_keys=True)),
    )
    connection.execute("DELETE FROM reconcile_runs WHERE id <= (SELECT max(id) FROM reconcile_runs) - %s", (RUNS_KEPT,))


def latest(connection: Connection[Any]) -> Run | None:
    """The newest run; None before the first."""
    row = connection.execute("SELECT at, ok, findings FROM reconcile_runs ORDER BY id DESC LIMIT 1").fetchone()
    return None if row is None else Run(*row)
