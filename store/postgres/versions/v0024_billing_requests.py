"""Billing of a period on request, and every state that a request has come to."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    run_sql_of(__file__)
