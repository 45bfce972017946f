"""Samples of the log's end, and what they say of the counters: the time whose whole log the fences have passed.

Statements run in the caller's transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection

SAMPLES_MAX = 100_000


def store_sample(connection: Connection[Any], epoch: int, seen: datetime, ends: list[int]) -> None:
    """Keeps a sample in one statement: an unchanged vector moves the newest row's `seen_until`."""
    connection.execute(
        "WITH newest AS (SELECT seen_from, ends FROM freshness_samples WHERE epoch = %(epoch)s"
        "  ORDER BY seen_until DESC LIMIT 1),"
        " moved AS (UPDATE freshness_samples s SET seen_until = greatest(s.seen_until, %(seen)s) FROM newest n"
        "  WHERE s.epoch = %(epoch)s AND s.seen_from = n.seen_from AND n.ends = %(ends)s::bigint[] RETURNING 1)"
        " INSERT INTO freshness_samples (epoch, seen_from, seen_until, ends)"
        " SELECT %(epoch)s, %(seen)s, %(seen)s, %(ends)s::bigint[] WHERE NOT EXISTS (SELECT FROM moved)"
        " ON CONFLICT (epoch, seen_from) DO NOTHING",
        {"epoch": epoch, "seen": seen, "ends": ends},
    )


def trim_samples(connection: Connection[Any], epoch: int) -> None:
    """Keeps the newest SAMPLES_MAX samples of an epoch."""
    connection.execute(
        "DELETE FROM freshness_samples WHERE epoch = %s AND seen_until <="
        " (SELECT seen_until FROM freshness_samples WHERE epoch = %s ORDER BY seen_until DESC OFFSET %s LIMIT 1)",
        (epoch, epoch, SAMPLES_MAX),
    )


def covered_until(connection: Connection[Any], epoch: int) -> tuple[datetime | None, int]:
    """The latest time whose whole vector the fences have reached, and how many records they are behind the newest."""
    row = connection.execute(
        "WITH fence AS (SELECT array_agg(next_offset ORDER BY partition) AS at FROM delta_fences WHERE epoch = %(epoch)s)"
        " SELECT (SELECT seen_until FROM freshness_samples s, fence WHERE s.epoch = %(epoch)s AND NOT EXISTS"
        "   (SELECT FROM unnest(s.ends, fence.at) AS v(ended, counted) WHERE ended > counted)"
        "   ORDER BY seen_until DESC LIMIT 1),"
        "  (SELECT coalesce(sum(greatest(ended - counted, 0)), 0) FROM fence,"
        "   (SELECT ends FROM freshness_samples WHERE epoch = %(epoch)s ORDER BY seen_until DESC LIMIT 1) AS newest,"
        "   unnest(newest.ends, fence.at) AS v(ended, counted))",
        {"epoch": epoch},
    ).fetchone()
    assert row is not None
    return row[0], int(row[1])
