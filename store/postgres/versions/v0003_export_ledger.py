"""What was told to Stripe, and the closed periods."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    run_sql_of(__file__)
