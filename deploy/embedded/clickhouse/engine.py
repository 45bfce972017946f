"""The engine: one data folder, one process, a connection of its own for every statement.

A connection costs a tenth of a millisecond and shares the server with all others, so each statement gets a fresh one:
no setting of one request can reach the next, and no slow statement can hold the connection of another. Only a session
keeps its connection. Every function here blocks and is meant for a thread; `kill` may be called from any other.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.embedded.clickhouse.body import Body, rows_file
from deploy.embedded.clickhouse.connections import Connection, open_connection
from deploy.embedded.clickhouse.failures import SYNTAX_ERROR, Failure, from_engine
from deploy.embedded.clickhouse.forms import External
from deploy.embedded.clickhouse.guard import forbidden_functions
from deploy.embedded.clickhouse.sessions import Session
from deploy.embedded.clickhouse.statements import Statement

_BASE = {
    "async_insert": "0",  # an insert is answered when its part is written, never set aside
    "implicit_select": "0",  # "1 + 1" is not a statement, as on a server
    "max_memory_usage": "1500000000",
}
_ENGINE_ERRORS = (RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a statement did, as the header X-ClickHouse-Summary tells it."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    elapsed_ns: int = 0

    def header(self) -> str:
        return json.dumps(
            {
                "read_rows": str(self.read_rows),
                "read_bytes": str(self.read_bytes),
                "written_rows": str(self.written_rows),
                "written_bytes": str(self.written_bytes),
                "total_rows_to_read": str(self.read_rows),
                "result_rows": str(self.result_rows),
                "result_bytes": str(self.result_bytes),
                "elapsed_ns": str(self.elapsed_ns),
            }
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One statement, with all that decides how it runs."""

    statement: Statement
    query_id: str
    readonly: bool
    default_format: str
    database: str | None
    settings: Mapping[str, str] = field(repr=False)
    substitutions: Mapping[str, str] = field(repr=False)
    session: Session | None = None
    externals: tuple[External, ...] = ()

    @property
    def format(self) -> str:
        return self.statement.format or self.default_format


def quoted(value: str) -> bytes:
    """A string literal."""
    text = value.encode(errors="surrogateescape")
    return b"'" + text.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\0", b"\\0") + b"'"


def quoted_name(name: str) -> bytes:
    """An identifier."""
    text = name.encode(errors="surrogateescape")
    return b"`" + text.replace(b"\\", b"\\\\").replace(b"`", b"\\`").replace(b"\0", b"\\0") + b"`"


class Engine:
    """The one owner of a data folder in this process. `close` it to release the folder."""

    def __init__(self, data: Path, memory_bytes_max: int, database: str) -> None:
        """Open the folder. Raises Failure, for one when another process holds it (36)."""
        self._path = str(data)
        self._database = database
        try:
            self._root = open_connection(f"{self._path}?max_server_memory_usage={memory_bytes_max}")
            self._root.query("SET implicit_select = 0")
            if database != "default":
                self._root.query(f"CREATE DATABASE IF NOT EXISTS {quoted_name(database).decode()}")
            self.version, self.timezone = self._rows("SELECT version(), timezone()")[0]
            table_functions = frozenset(row[0] for row in self._rows("SELECT name FROM system.table_functions"))
            functions = frozenset(row[0] for row in self._rows("SELECT name FROM system.functions WHERE name ILIKE 'ai%'"))
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from None
        self.forbidden = forbidden_functions(table_functions, functions)
        self._parsing = threading.Lock()

    def connect(self) -> Connection:
        """A new connection with this gateway's defaults."""
        connection = open_connection(self._path)
        connection.query(_assignments(_BASE))
        return connection

    def query_class(self, text: bytes) -> str:
        """What the engine's own parser says a text would do: READ_ONLY, MUTATING, CONTROL, ... or UNKNOWN."""
        with self._parsing:
            found: dict[str, Any] = self._root._conn.classify_query(text.decode(errors="replace"))
        return str(found["query_class"].name)

    def read(self, job: Job, sink: int) -> Summary:
        """Run a statement that has a result, its bytes going to the descriptor `sink`, which is closed at the end."""
        try:
            with self._prepared(job) as connection:
                text = job.statement.into(f"/dev/fd/{sink}", job.default_format)
                summary = _summary(connection.query(text, "TabSeparated"))
                self._must_parse(text, summary)
                if summary.result_rows == 0 and job.format == "Native":
                    # The engine says nothing at all for an empty result, where a server names the columns.
                    os.write(sink, self._columns(connection, job.statement))
                return summary
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from None
        finally:
            os.close(sink)

    def run(self, job: Job) -> tuple[bytes, Summary]:
        """Run any other statement and give its (small) result."""
        try:
            with self._prepared(job) as connection:
                result = connection.query(job.statement.text, job.default_format)
                summary = _summary(result)
                self._must_parse(job.statement.text, summary)
                if job.session is not None:
                    self._remember(job.session, job.statement)
                return result.bytes(), summary
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from None

    def insert(self, job: Job, first: bytes, body: Body, body_from: int) -> Summary:
        """Insert rows: `first`, then the body from `body_from`. Returns when the engine has written them, or raises.

        The rows go through a file in memory and FROM INFILE. The engine's streaming insert (`send_insert`) must not be
        used: it reports success for rows whose writing failed, for one by a constraint of the table.
        """
        try:
            with self._prepared(job) as connection, body.as_file(first, body_from) as descriptor:
                text = job.statement.from_file(f"/dev/fd/{descriptor}")
                summary = _summary(connection.query(text))
                self._must_parse(text, summary)
                return summary
        except _ENGINE_ERRORS as error:
            raise from_engine(error) from None

    def kill(self, query_id: str | None) -> None:
        """Ask the engine to end one statement, or with None all of them. Returns without waiting for the end."""
        which = b"1" if query_id is None else b"Settings['log_comment'] = " + quoted(query_id)
        with suppress(*_ENGINE_ERRORS):
            connection = open_connection(self._path)
            try:
                connection.query(b"KILL QUERY WHERE " + which + b" ASYNC", "TabSeparated")
            finally:
                connection.close()

    def close(self) -> None:
        self._root.close()

    def _must_parse(self, text: bytes, summary: Summary) -> None:
        """The engine passes over some texts that it cannot read, such as an open quote, without a word. Raises Failure."""
        if not summary.result_rows and not summary.written_rows and self.query_class(text) == "UNKNOWN":
            raise Failure(SYNTAX_ERROR, "Syntax error: the text is not a statement, or a quote or comment in it is not closed")

    def _rows(self, text: str) -> list[list[str]]:
        raw: bytes = self._root.query(text, "JSONCompactEachRow").bytes()
        return [json.loads(line) for line in raw.splitlines()]

    @contextmanager
    def _prepared(self, job: Job) -> Iterator[Connection]:
        """A connection on which the job's settings, parameters and database hold. A session's is put back afterwards."""
        connection = self.connect() if job.session is None or job.session.connection is None else job.session.connection
        own = job.session is None or job.session.connection is not connection
        settings = {**job.settings, "log_comment": job.query_id}
        settings.update({f"param_{name}": value for name, value in job.substitutions.items()})
        if job.readonly:
            settings["allow_introspection_functions"] = "0"
        database = job.database or (job.session.database if job.session else None) or self._database
        try:
            connection.query(b"USE " + quoted_name(database) + b"; " + _assignments(settings))
            for table in job.externals:
                _create_external(connection, table)
            if job.readonly:
                connection.query("SET readonly = 1")
            yield connection
        finally:
            if own:
                connection.close()
            else:
                for table in job.externals:
                    with suppress(*_ENGINE_ERRORS):
                        connection.query(f"DROP TEMPORARY TABLE IF EXISTS {table.name}")
                _put_back(connection, settings, job.session)

    def _remember(self, session: Session, statement: Statement) -> None:
        """Keep what a statement changed for the statements after it."""
        session.holds_state = session.holds_state or statement.verb in ("SET", "USE", "CREATE")
        if statement.verb == "SET":
            session.keep(statement.text)
        elif statement.verb == "USE":
            name = statement.tokens[-1].name()
            if name:
                session.database = name

    @staticmethod
    def _columns(connection: Connection, statement: Statement) -> bytes:
        """A Native block of no rows with the columns that a SELECT has. Empty when it is not one."""
        if statement.verb not in ("SELECT", "WITH", "FROM", "("):
            return b""
        start, end = statement.format_at or (len(statement.text), len(statement.text))
        text = b"DESCRIBE (\n" + statement.text[:start] + statement.text[end:] + b"\n)"
        try:
            described: bytes = connection.query(text, "JSONCompactEachRow").bytes()
        except _ENGINE_ERRORS:
            return b""
        columns = [json.loads(line)[:2] for line in described.splitlines()]
        block = _varint(len(columns)) + _varint(0)
        for name, kind in columns:
            for part in (name.encode(), kind.encode()):
                block += _varint(len(part)) + part
        return block


def _assignments(settings: Mapping[str, str]) -> bytes:
    return b"SET " + b", ".join(name.encode() + b" = " + quoted(value) for name, value in settings.items())


def _create_external(connection: Connection, table: External) -> None:
    connection.query(f"CREATE TEMPORARY TABLE {table.name} ({table.structure}) ENGINE = Memory")
    with rows_file(table.rows) as descriptor:
        connection.query(f"INSERT INTO {table.name} FROM INFILE '/dev/fd/{descriptor}' COMPRESSION 'none' FORMAT {table.format}")


def _put_back(connection: Connection, settings: Mapping[str, str], session: Session | None) -> None:
    """Undo a request's settings on a session's connection, then apply again what the session itself has set."""
    names = [name for name in settings if not name.startswith("param_")]
    with suppress(*_ENGINE_ERRORS):
        connection.query("SET " + ", ".join(f"{name} = DEFAULT" for name in names))
        connection.query(_assignments(_BASE))
    for text in session.kept if session is not None else ():
        with suppress(*_ENGINE_ERRORS):
            connection.query(text)


def _summary(result: Any) -> Summary:
    written = int(result.rows_written())
    return Summary(
        read_rows=int(result.storage_rows_read()) or written,
        read_bytes=int(result.storage_bytes_read()) or int(result.bytes_written()),
        written_rows=written,
        written_bytes=int(result.bytes_written()),
        result_rows=int(result.rows_read()),
        result_bytes=int(result.bytes_read()),
        elapsed_ns=int(result.elapsed() * 1e9),
    )


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
