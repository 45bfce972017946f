"""The catalog, who is who, inbox, outbox, audit."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_sql_of(__file__)
