"""API keys of organizations, and which organization a source service belongs to."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_of(__file__)
