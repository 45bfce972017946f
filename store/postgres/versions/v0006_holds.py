"""Reservations: what is held of a limit until its usage is counted, or given back."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    run_sql_of(__file__)
