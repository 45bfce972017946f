"""The part of chdb's connection that this gateway uses, with its types. The only module that imports chdb."""

from __future__ import annotations

from typing import Any, Protocol, cast

from chdb.state import sqlitelike


class Connection(Protocol):
    """One statement at a time; raises RuntimeError with ClickHouse's message."""

    _conn: Any

    def query(self, text: str | bytes, format: str = "TabSeparated") -> Any: ...
    def close(self) -> None: ...


def open_connection(where: str) -> Connection:
    """Connect to a data folder, which belongs to this process from the first connection on."""
    return cast("Connection", sqlitelike.Connection(where))
