"""The sweeper of sessions, turn by turn."""

from __future__ import annotations

from control_plane.sessions.service import sweep
from runtime.postgres import connect
from runtime.settings import Settings

TURNS_MAX = 1_000


def sweep_all(settings: Settings, rows_max: int = 100) -> int:
    """Sweeps until nothing is due; how many sessions were swept."""
    swept = 0
    with connect(settings, autocommit=True) as connection:
        for _ in range(TURNS_MAX):
            with connection.transaction():
                now = sweep(connection, rows_max, settings.topic_events)
            swept += now
            if now == 0:
                return swept
    raise AssertionError("sweeping does not end")
