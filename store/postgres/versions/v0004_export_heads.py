"""What the exporter locks while it plans, and what it froze for a period."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    run_sql_of(__file__)
