"""Thresholds that were reached, and whether they were told of."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql_of(__file__)
