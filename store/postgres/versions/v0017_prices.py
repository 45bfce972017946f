"""What plans cost, by currency and cycle, and the prices at Stripe that stand for it."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_sql_of(__file__)
