"""One body for two kinds of connections: steps that yield statements and are sent the rows, and the drivers that run them.

So what must be the same for a thread and for an event loop is written once. Steps begin when a driver runs them, in the
caller's transaction; nothing is committed here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from psycopg import AsyncConnection, Connection


class Ask(NamedTuple):
    """A statement and its parameters."""

    sql: str
    parameters: Mapping[str, Any]


Rows = Sequence[tuple[Any, ...]]
T = TypeVar("T")
Steps = Generator[Ask, Rows, T]


def run(connection: Connection[Any], steps: Steps[T]) -> T:
    """What the steps come to. Raises psycopg.Error, and what they raise."""
    try:
        ask = next(steps)
        while True:
            cursor = connection.execute(ask.sql.encode(), ask.parameters)
            ask = steps.send(cursor.fetchall() if cursor.description else [])
    except StopIteration as end:
        value: T = end.value
        return value


async def arun(connection: AsyncConnection[Any], steps: Steps[T]) -> T:
    """The same, awaited."""
    try:
        ask = next(steps)
        while True:
            cursor = await connection.execute(ask.sql.encode(), ask.parameters)
            ask = steps.send(await cursor.fetchall() if cursor.description else [])
    except StopIteration as end:
        value: T = end.value
        return value
