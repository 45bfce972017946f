"""Samples of the log's end, and what they say of the counters: the time whose whole log the fences have passed.

Statements run in the caller's transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg import Connection

SAMPLES_MAX = 100_000


def store_sample(connection: Connection[Any], epoch: int, seen: datetime, ends: list[int]) -> None:
    """Keeps a sample in one statement: an unchanged vector moves the newest row's `seen_until`.

    Nothing is kept of an epoch that has ended: records may have gone to the next one by `seen`.
    """
    connection.execute(
        "WITH goes_on AS (SELECT FROM epochs WHERE epoch = %(epoch)s AND ends IS NULL),"
        " newest AS (SELECT seen_from, ends FROM freshness_samples WHERE epoch = %(epoch)s"
        "  ORDER BY seen_until DESC LIMIT 1),"
        " moved AS (UPDATE freshness_samples s SET seen_until = greatest(s.seen_until, %(seen)s) FROM newest n, goes_on"
        "  WHERE s.epoch = %(epoch)s AND s.seen_from = n.seen_from AND n.ends = %(ends)s::bigint[] RETURNING 1)"
        " INSERT INTO freshness_samples (epoch, seen_from, seen_until, ends)"
        " SELECT %(epoch)s, %(seen)s, %(seen)s, %(ends)s::bigint[] FROM goes_on WHERE NOT EXISTS (SELECT FROM moved)"
        " ON CONFLICT (epoch, seen_from) DO NOTHING",
        {"epoch": epoch, "seen": seen, "ends": ends},
    )


def trim_samples(connection: Connection[Any]) -> None:
    """Keeps the newest SAMPLES_MAX samples."""
    connection.execute(
        "DELETE FROM freshness_samples WHERE seen_until <="
        " (SELECT seen_until FROM freshness_samples ORDER BY seen_until DESC OFFSET %s LIMIT 1)",
        (SAMPLES_MAX,),
    )


def covered_until(connection: Connection[Any]) -> tuple[datetime | None, int]:
    """The latest time whose whole log the fences have reached, and how many records they are behind the newest.

    A sample of an epoch counts once every older epoch is counted to its end.
    """
    row = connection.execute(
        "WITH fence AS MATERIALIZED (SELECT epoch, array_agg(next_offset ORDER BY partition) AS at,"
        "   coalesce(bool_and(next_offset >= ends[partition + 1]), false) AS ended,"
        "   coalesce(sum(greatest(ends[partition + 1] - next_offset, 0)), 0) AS behind"
        "   FROM delta_fences JOIN epochs USING (epoch) GROUP BY epoch),"
        " reachable AS (SELECT epoch, at FROM fence f"
        "   WHERE NOT EXISTS (SELECT FROM fence o WHERE o.epoch < f.epoch AND NOT o.ended))"
        " SELECT (SELECT max(s.seen_until) FROM reachable r CROSS JOIN LATERAL (SELECT seen_until FROM freshness_samples s"
        "   WHERE s.epoch = r.epoch AND NOT EXISTS"
        "    (SELECT FROM unnest(s.ends, r.at) AS v(ended, counted) WHERE ended > counted)"
        "   ORDER BY seen_until DESC LIMIT 1) s),"
        "  (SELECT coalesce(sum(behind), 0) FROM fence) +"
        "  (SELECT coalesce(sum(greatest(v.log_end - v.counted, 0)), 0) FROM fence f CROSS JOIN LATERAL"
        "   (SELECT ends FROM freshness_samples s WHERE s.epoch = f.epoch ORDER BY seen_until DESC LIMIT 1) AS newest,"
        "   unnest(newest.ends, f.at) AS v(log_end, counted) WHERE f.epoch = (SELECT max(epoch) FROM epochs))"
    ).fetchone()
    assert row is not None
    return row[0], int(row[1])
