"""The inbox worked off, what is known of Clerk, requests to reconcile."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run_sql_of(__file__)
