"""The HTTP interface: what a request asks for, who asks, and the way of its statement through the lanes to an answer."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from deploy.embedded.clickhouse import parameters as parsing
from deploy.embedded.clickhouse.answers import HOLD_BYTES, HOLD_S, WAIT_BYTES_MAX, Answer, ClientStalled, ResultPipe, Send
from deploy.embedded.clickhouse.body import Body, BodyBounds, ClientGone, Receive, receive_body
from deploy.embedded.clickhouse.engine import Engine, Job, Summary
from deploy.embedded.clickhouse.failures import READONLY, Failure
from deploy.embedded.clickhouse.forms import FORM_BYTES_MAX, External, external_tables, is_form, read_form
from deploy.embedded.clickhouse.guard import refuse_python, refuse_writes
from deploy.embedded.clickhouse.lanes import LaneBounds, Lanes
from deploy.embedded.clickhouse.sessions import Session, Sessions
from deploy.embedded.clickhouse.statements import Statement, analyse
from deploy.embedded.clickhouse.users import User, Users

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
T = TypeVar("T")

_DRAIN_BYTES = 4 << 20
_KILL_TRIES = 240
_SMALL_TEXT = 16 << 10
_ID = re.compile(r"[\x20-\x7e]{1,128}\Z")
_KILLED_ID = re.compile(rb"\bquery_id\s*=\s*('(?:[^'\\]|\\.)*')", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Bounds:
    lanes: LaneBounds = field(default_factory=LaneBounds)
    body: BodyBounds = field(default_factory=BodyBounds)
    threads_each: int = max(1, parsing.CPUS // 2)


class Gateway:
    """The ASGI application. One event loop; statements run in a bounded pool of threads."""

    def __init__(self, engine: Engine, users: Users, spool: Path, bounds: Bounds) -> None:
        self._engine = engine
        self._users = users
        self._spool = spool
        self._bounds = bounds
        self._lanes = Lanes(bounds.lanes)
        self._sessions = Sessions(engine.connect)
        self._threads = ThreadPoolExecutor(bounds.lanes.running, thread_name_prefix="statement")
        self._control = ThreadPoolExecutor(2, thread_name_prefix="control")
        self._running: dict[str, asyncio.Future[Any]] = {}
        self._name = socket.gethostname()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is spoken here, not {scope['type']}")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        unread = _Unread(receive)
        answer = Answer(send, accepted=None)
        try:
            if await self._simple(scope, answer):
                return
            given = _query_string(scope["query_string"])
            user = self._users.identify(headers, given)
            if given.get("enable_http_compression", "0") in ("1", "true"):
                answer = Answer(send, accepted=headers.get("accept-encoding"))
            await self._query(scope["method"], headers, given, user, unread, answer)
        except Failure as failure:
            await unread.drain()
            if not answer.begun:
                await self._refuse(Answer(send, accepted=None), failure, headers, unread.complete)
        except (ClientGone, ClientStalled):
            log.info("a client went away before its answer was complete")

    async def stop(self, grace_s: float) -> None:
        """End what runs: inserts get `grace_s` to finish, then everything is killed. Bounded by about twice that."""
        for query_id in list(self._running):
            if not query_id.startswith("insert:"):
                self._engine.kill(query_id.partition(":")[2])
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=grace_s)
        if self._running:
            self._engine.kill(None)
            await asyncio.wait(list(self._running.values()), timeout=grace_s)

    @property
    def idle(self) -> bool:
        return not self._running

    def close(self) -> None:
        """Free sessions and threads. Only when idle."""
        self._sessions.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._control.shutdown(wait=False, cancel_futures=True)

    async def _simple(self, scope: Scope, answer: Answer) -> bool:
        """Answer what needs no user. True when it did."""
        path, method = scope["path"], scope["method"]
        answer.headers["content-type"] = "text/html; charset=UTF-8"
        if method not in ("GET", "HEAD", "POST"):
            await answer.whole(b"Only GET, HEAD and POST are answered\n", 501)
        elif path in ("/ping", "/replicas_status") or (path == "/" and method != "POST" and not scope["query_string"]):
            await answer.whole(b"Ok.\n")
        elif path != "/":
            await answer.whole(b"There is no handle " + path.encode(errors="replace")[:200] + b"\nUse / or /ping\n", 404)
        else:
            return False
        return True

    async def _refuse(self, answer: Answer, failure: Failure, headers: Mapping[str, str], body_read: bool) -> None:
        answer.headers["content-type"] = "text/plain; charset=UTF-8"
        answer.headers["x-clickhouse-exception-code"] = str(failure.code)
        answer.headers["x-clickhouse-server-display-name"] = self._name
        if failure.status == 401:
            answer.headers["www-authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        if not body_read:
            answer.headers["connection"] = "close"
        with suppress(ClientStalled):
            await answer.whole(failure.body(self._engine.version), failure.status)

    async def _query(
        self, method: str, headers: Mapping[str, str], given: dict[str, str], user: User, receive: _Unread, answer: Answer
    ) -> None:
        encoding = headers.get("content-encoding", "").strip().lower()
        with await receive_body(receive, encoding, self._spool, self._bounds.body) as body:
            externals: tuple[External, ...] = ()
            text_in_body = method == "POST"
            if is_form(headers.get("content-type", "")):
                if body.size > FORM_BYTES_MAX:
                    raise Failure(229, f"a form may hold {FORM_BYTES_MAX} bytes")
                fields, files = read_form(headers["content-type"], body.head(FORM_BYTES_MAX))
                given = {**given, **fields}
                externals = external_tables(files, given)
                text_in_body = False
            asked = parsing.read(given, readonly=user.readonly, threads=self._bounds.threads_each, headers=headers)
            if not _ID.match(asked.query_id):
                raise Failure(36, "query_id: want 1 to 128 printable ASCII characters")
            text, body_from = _text(asked, body, text_in_body)
            statement = await self._analysed(text, asked.query_bytes_max)
            await self._permitted(method, asked, statement)
            answer.headers.update(
                {
                    "x-clickhouse-server-display-name": self._name,
                    "x-clickhouse-query-id": asked.query_id,
                    "x-clickhouse-timezone": asked.settings.get("session_timezone") or self._engine.timezone,
                }
            )
            job = Job(
                statement=statement,
                query_id=asked.query_id,
                readonly=asked.readonly,
                default_format=asked.default_format or "TabSeparated",
                database=asked.database,
                settings=asked.settings,
                substitutions=asked.substitutions,
                externals=externals,
            )
            async with self._session(asked, user) as session:
                await self._dispatch(replace(job, session=session), asked, text, body, body_from, receive, answer)

    async def _analysed(self, text: bytes, text_bytes_max: int) -> Statement:
        if len(text) <= _SMALL_TEXT:
            return analyse(text, text_bytes_max)
        return await self._in_thread(self._control, analyse, text, text_bytes_max)

    async def _permitted(self, method: str, asked: parsing.Parameters, statement: Statement) -> None:
        refuse_python(statement)
        if not asked.readonly and method == "POST":
            return
        query_class = self._engine.query_class(statement.text)
        if asked.readonly:
            refuse_writes(statement, query_class, self._engine.forbidden)
        elif statement.kind in ("insert", "insert_select") or (
            query_class not in ("READ_ONLY", "UNKNOWN") and statement.verb not in ("SET", "USE")
        ):
            raise Failure(
                READONLY,
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. "
                "You should use method POST for modifying queries",
            )

    @asynccontextmanager
    async def _session(self, asked: parsing.Parameters, user: User) -> AsyncIterator[Session | None]:
        if asked.session_id is None:
            yield None
            return
        with self._sessions.use(
            user.name,
            asked.session_id,
            readonly=asked.readonly,
            check=asked.session_check,
            timeout_s=asked.session_timeout_s,
            now=time.monotonic,
        ) as session:
            yield session

    async def _dispatch(
        self, job: Job, asked: parsing.Parameters, text: bytes, body: Body, body_from: int, receive: _Unread, answer: Answer
    ) -> None:
        statement = job.statement
        if statement.kind == "read":
            answer.format(job.format)
            async with self._lanes.read(readonly=job.readonly):
                await self._read(job, asked.wait_end_of_query, receive, answer)
            return
        if statement.data_at is not None:
            lane = self._lanes.insert() if statement.kind == "insert" else self._lanes.write()
            first = text[statement.data_at :]
            async with lane, self._started("insert", job, self._engine.insert, job, first, body, body_from) as inserted:
                summary = await inserted
            await self._done(answer, b"", summary)
            return
        if statement.verb == "KILL":
            job = replace(
                job,
                statement=replace(
                    statement, text=_KILLED_ID.sub(rb"(query_id = \1 OR Settings['log_comment'] = \1)", statement.text)
                ),
            )
        answer.format(job.format)
        lane = (
            self._lanes.read(readonly=job.readonly)
            if statement.verb in ("EXPLAIN", "SET", "USE", "KILL", "CHECK")
            else self._lanes.write()
        )
        async with lane, self._started("statement", job, self._engine.run, job) as ran:
            result, summary = await ran
        await self._done(answer, result, summary)

    async def _done(self, answer: Answer, result: bytes, summary: Summary) -> None:
        answer.headers["x-clickhouse-summary"] = summary.header()
        await answer.whole(result)

    async def _read(self, job: Job, wait_for_end: bool, receive: _Unread, answer: Answer) -> None:
        """Stream one result, and end the statement when the client goes away."""
        work = asyncio.create_task(self._stream(job, wait_for_end, answer))
        gone = asyncio.create_task(receive.gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientGone
            await work
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _stream(self, job: Job, wait_for_end: bool, answer: Answer) -> None:
        self._refuse_twin(job.query_id)
        pipe = ResultPipe()
        async with self._started("read", job, self._engine.read, job, pipe.write_end, first=pipe.close) as done:
            with Body(self._spool, self._bounds.body.memory_bytes) as held:
                complete = await self._hold(pipe, held, wait_for_end)
                if complete:
                    summary = await done
                    answer.headers["x-clickhouse-summary"] = summary.header()
                    if held.size <= HOLD_BYTES:
                        await answer.whole(held.head(HOLD_BYTES))
                        return
                await answer.begin()
                for piece in held.pieces():
                    await answer.piece(piece)
            try:
                while not complete:
                    data = await pipe.read()
                    complete = not data
                    if data:
                        await answer.piece(data)
                await done
            except Failure as failure:
                await answer.break_off(failure, self._engine.version)
                return
            await answer.end()

    @staticmethod
    async def _hold(pipe: ResultPipe, held: Body, wait_for_end: bool) -> bool:
        """Read a first part: until the end, or until enough has come or waited. True at the end of the result."""
        loop = asyncio.get_running_loop()
        begun_at: float | None = None
        while True:
            waits_s = None if wait_for_end or begun_at is None else max(0.0, begun_at + HOLD_S - loop.time())
            try:
                async with asyncio.timeout(waits_s):
                    data = await pipe.read()
            except TimeoutError:
                return False
            if not data:
                return True
            held.write(data)
            if held.size >= (WAIT_BYTES_MAX if wait_for_end else HOLD_BYTES):
                return False
            begun_at = begun_at if begun_at is not None else loop.time()

    @asynccontextmanager
    async def _started(
        self, kind: str, job: Job, function: Callable[..., T], *args: Any, first: Callable[[], None] | None = None
    ) -> AsyncIterator[asyncio.Future[T]]:
        """Run `function` in a thread. Leaving before its end calls `first`, kills the statement, and waits until it has ended."""
        self._refuse_twin(job.query_id)
        key = f"{kind}:{job.query_id}"
        future = asyncio.ensure_future(self._in_thread(self._threads, function, *args))
        self._running[key] = future
        try:
            yield future
        finally:
            if first is not None:
                first()
            try:
                if not future.done():
                    await asyncio.shield(self._ended(future, job.query_id))
            finally:
                del self._running[key]

    def _refuse_twin(self, query_id: str) -> None:
        if any(running.partition(":")[2] == query_id for running in self._running):
            raise Failure(216, f"Query with id = {query_id} is already running.")

    async def _ended(self, future: asyncio.Future[T], query_id: str) -> None:
        for _ in range(_KILL_TRIES):
            await self._in_thread(self._control, self._engine.kill, query_id)
            await asyncio.wait({future}, timeout=0.25)
            if future.done():
                future.exception()  # seen: nobody else asks for it
                return
        log.error("a statement did not end after %d kills", _KILL_TRIES, extra={"query_id": query_id})

    async def _in_thread(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


class _Unread:
    """The rest of a request: what is not read must be taken off the wire before an early answer can arrive."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def drain(self) -> None:
        taken = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                while not self.complete and taken < _DRAIN_BYTES:
                    taken += len((await self()).get("body", b""))


def _query_string(raw: bytes) -> dict[str, str]:
    """The parameters. Bytes that are not UTF-8 stay themselves, for a query may hold any."""
    text = raw.decode(errors="surrogateescape")
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=parsing.PARAMETERS_MAX))
    except ValueError:
        raise Failure(36, f"more than {parsing.PARAMETERS_MAX} parameters in the query string") from None


def _text(asked: parsing.Parameters, body: Body, text_in_body: bool) -> tuple[bytes, int]:
    """The statement's text as far as it can reach, and where in the body what follows it begins.

    The text is the parameter `query`, an end of line, and the body; only its beginning is looked at when it is long.
    """
    if not text_in_body:
        return asked.query, body.size
    part = body.head(asked.query_bytes_max + 1)
    if asked.query:
        if asked.query.lstrip()[:6].upper() == b"INSERT":
            return asked.query, 0
        return (asked.query + b"\n" + part if part else asked.query), len(part)
    return part, len(part)
