"""Room in the counters' pages for the next version of each row."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    run_sql_of(__file__)
