"""What reconcile found, run by run."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    run_sql_of(__file__)
