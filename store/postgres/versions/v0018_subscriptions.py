"""Customers, subscriptions, payment methods and invoices, as the payment provider holds them."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    run_sql_of(__file__)
