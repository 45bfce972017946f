"""Period closes that follow each other, what an export continues, and what a closed period leaves."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_sql_of(__file__)
