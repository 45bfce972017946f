"""What final invoices billed, transitions that the table itself writes, and the runs of the exporter's schedule."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    run_sql_of(__file__)
