"""What a catalog says beyond plans and limits."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    run_sql_of(__file__)
