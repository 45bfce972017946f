"""A loop outlives an absent Postgres and a defect in a turn, and ends when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import pytest

from runtime import repeating
from runtime.repeating import repeat_until


def test_a_turn_that_fails_is_repeated_on_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeating, "AWAY_MOST_S", 0.0)
    stop = threading.Event()
    opened: list[int] = []
    turns: list[int] = []

    @contextmanager
    def connection() -> Iterator[int]:
        opened.append(len(opened))
        yield opened[-1]

    def connect() -> psycopg.Connection[Any]:
        if len(opened) == 1 and not turns[1:]:
            turns.append(-1)
            raise psycopg.OperationalError("away")
        return cast(psycopg.Connection[Any], connection())

    def turn(on: object) -> float:
        assert isinstance(on, int)
        turns.append(on)
        if turns == [0]:
            raise psycopg.OperationalError("cut")
        if turns == [0, -1, 1]:
            raise ValueError("a defect")
        if turns[-2:] == [2, 2]:
            stop.set()
        return 0.0

    repeat_until(stop, "stage", "it", connect, turn)
    assert turns == [0, -1, 1, 2, 2]
