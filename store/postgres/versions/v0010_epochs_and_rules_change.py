"""Epochs after the first: what is forwarded from an ended one, when it is retired; rules that change at one offset twice."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    run_sql_of(__file__)
