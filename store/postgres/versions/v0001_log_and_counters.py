"""Epochs, rules, fences, counters, freshness, repairs."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql_of(__file__)
