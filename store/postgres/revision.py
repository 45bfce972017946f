"""What a revision does: it runs the SQL file of its own name."""

from __future__ import annotations

from pathlib import Path

import psycopg
from alembic import op


def run_sql_of(revision_file: str) -> None:
    """Runs `<number>_<name>.sql` beside the revision `v<number>_<name>.py`.

    It goes to the driver itself: SQLAlchemy would read the percent signs of the SQL as parameters.
    """
    path = Path(revision_file)
    sql = path.with_name(path.stem.removeprefix("v") + ".sql").read_bytes()
    connection = op.get_bind().connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    connection.execute(sql)
