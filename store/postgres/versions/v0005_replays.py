"""Which reject was sent again, as what, and where the new record stands."""

from __future__ import annotations

from store.postgres.revision import run_sql_of

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    run_sql_of(__file__)
