"""uvicorn's HTTP protocol with the two bounds it lacks: on the size of a request's head, and on the time it may take.

The edge bounds the body; it is called when the head is there, so that a client which never ends its head would hold a
connection and its memory for as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 64 << 10
HEAD_WITHIN_S = 20.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request's head is too large (431) or too late (408)."""

    _head_bytes = 0
    _in_head = True
    _head_begun = False
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # What follows a head in the same piece is counted with it: nothing is refused unless the head goes on.
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_begun and self._late is None:
            # Most heads come in one piece, and need no timer.
            self._begin_head()
        if not self._in_head:
            self._head_bytes = 0
        elif self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(b"431 Request Header Fields Too Large", b"The head of the request is larger than 65536 bytes.")

    def on_message_begin(self) -> None:
        self._head_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = self._head_begun = False
        self._forget_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def _begin_head(self) -> None:
        self._late = self.loop.call_later(
            HEAD_WITHIN_S, self._refuse, b"408 Request Timeout", b"The head of the request did not arrive in time."
        )

    def _forget_timer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: bytes, told: bytes) -> None:
        self._forget_timer()
        transport = cast("Any", self.transport)
        if transport.is_closing():
            return
        lines = (b"HTTP/1.1 " + status, b"content-type: text/plain; charset=utf-8", b"content-length: %d" % len(told))
        transport.write(b"\r\n".join((*lines, b"connection: close", b"", told)))
        transport.close()
