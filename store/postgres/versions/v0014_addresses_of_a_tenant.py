"""E-mail addresses of users are unique within a tenant."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_sql_of(__file__)
