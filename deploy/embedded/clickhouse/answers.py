"""Answers: headers as a server sends them, and results streamed from the engine through a pipe.

The engine writes into the pipe as fast as the client takes it, so a result of any size costs a few megabytes. The
first bytes are held back for a moment: a statement that fails early then still gets its proper status. One that fails
later is told in the stream, under the tag that the headers announced, and the connection is cut.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from deploy.embedded.clickhouse.compression import PIECE_BYTES, choose, encoder
from deploy.embedded.clickhouse.failures import Failure

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HOLD_BYTES = 1 << 20
HOLD_S = 0.1
WAIT_BYTES_MAX = 1 << 30
"""The most that wait_end_of_query=1 holds back; a larger result is streamed from there on."""
STALL_S = 60.0
_F_SETPIPE_SZ = 1031
_LARGE = 64 << 10

_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "JSONCompactEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ArrowStream": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "XML": "application/xml; charset=UTF-8",
}


class ClientStalled(Exception):
    """The client took nothing for too long."""


class ResultPipe:
    """A pipe whose write end the engine gets and closes."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        with suppress(OSError):  # the system's bound on pipe memory is reached, or it has no such call: a small pipe does
            fcntl.fcntl(self._read_end, _F_SETPIPE_SZ, PIECE_BYTES)

    async def read(self) -> bytes:
        """The next bytes, or none at the end."""
        while True:
            try:
                return os.read(self._read_end, PIECE_BYTES)
            except BlockingIOError:
                await self._readable()

    def close(self) -> None:
        """Close the read end: an engine that still writes gets an error."""
        os.close(self._read_end)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(self._read_end, wake)
        try:
            await ready
        finally:
            loop.remove_reader(self._read_end)


class Answer:
    """One answer. Nothing is sent before `begin` or `whole`."""

    def __init__(self, send: Send, *, accepted: str | None) -> None:
        """`accepted` is the Accept-Encoding header when the client has asked for compression, else None."""
        self._send = send
        self._encoding = choose(accepted) if accepted else None
        self._encoder = encoder(self._encoding) if self._encoding else None
        self._tag = secrets.token_hex(8)
        self.headers: dict[str, str] = {"x-clickhouse-exception-tag": self._tag}
        self.begun = False

    def format(self, name: str) -> None:
        self.headers["x-clickhouse-format"] = name
        self.headers["content-type"] = _CONTENT_TYPES.get(name, "text/plain; charset=UTF-8")

    async def whole(self, body: bytes, status: int = 200) -> None:
        """Send a complete answer."""
        if self._encoder is not None and body:
            body = await self._encoded(body) + self._encoder.finish()
            self.headers["content-encoding"] = self._encoding or ""
        self.headers["content-length"] = str(len(body))
        await self._begin(status)
        await self._deliver(body, more=False)

    async def begin(self) -> None:
        """Send the headers of an answer whose length is not known."""
        if self._encoding is not None:
            self.headers["content-encoding"] = self._encoding
        await self._begin(200)

    async def piece(self, data: bytes) -> None:
        await self._deliver(await self._encoded(data), more=True)

    async def end(self) -> None:
        await self._deliver(self._encoder.finish() if self._encoder is not None else b"", more=False)

    async def break_off(self, failure: Failure, version: str) -> None:
        """Tell an error in the middle of the stream. The caller returns without ending the answer, which cuts the connection."""
        text = failure.body(version)
        tag = self._tag.encode()
        block = b"\r\n__exception__\r\n" + tag + b"\r\n" + text + b"%d " % len(text) + tag + b"\r\n__exception__\r\n"
        tail = await self._encoded(block)
        if self._encoder is not None:
            tail += self._encoder.finish()
        await self._deliver(tail, more=True)

    async def _begin(self, status: int) -> None:
        self.begun = True
        headers = [(name.encode("latin-1"), value.encode("latin-1", errors="replace")) for name, value in self.headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _encoded(self, data: bytes) -> bytes:
        if self._encoder is None:
            return data
        return self._encoder.feed(data) if len(data) < _LARGE else await asyncio.to_thread(self._encoder.feed, data)

    async def _deliver(self, data: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(STALL_S):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise ClientStalled from None
