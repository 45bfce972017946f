"""An audit trail that is read by tenant, and only ever added to."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    run_sql_of(__file__)
