"""The body of a request: unpacked, bounded, kept in memory while small and in a file of the data folder when not.

It is read to its end before anything runs, so a client that goes away in the middle has changed nothing, and a slow
one holds no place in a lane.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from deploy.embedded.clickhouse.compression import PIECE_BYTES, Decoder
from deploy.embedded.clickhouse.failures import Failure

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client closed the connection."""


@dataclass(frozen=True, slots=True)
class BodyBounds:
    sent_bytes: int = 1 << 30
    unpacked_bytes: int = 4 << 30
    memory_bytes: int = 32 << 20
    silence_s: float = 60.0


class Body:
    """What was sent. A context manager: leaving it frees the memory or the file."""

    def __init__(self, spool: Path, memory_bytes: int) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=memory_bytes, mode="w+b", dir=str(spool))  # noqa: SIM115 (closed by __exit__)
        self._spool = spool
        self._memory_bytes = memory_bytes
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or all of them."""
        self._file.seek(0)
        return self._file.read(size)

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """Everything from `start`, in pieces that the engine parses well."""
        self._file.seek(start)
        while piece := self._file.read(PIECE_BYTES):
            yield piece

    @contextmanager
    def as_file(self, first: bytes, start: int) -> Iterator[int]:
        """The descriptor of a file that holds `first` and then everything from `start`."""
        if self.size > self._memory_bytes and not first and start == 0:
            self._file.flush()
            self._file.seek(0)
            yield self._file.fileno()
            return
        with _new_file(self._spool if self.size > self._memory_bytes else None) as file:
            file.write(first)
            for piece in self.pieces(start):
                file.write(piece)
            file.flush()
            file.seek(0)
            yield file.fileno()

    def __enter__(self) -> Body:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


@contextmanager
def rows_file(rows: bytes) -> Iterator[int]:
    """The descriptor of a file in memory that holds `rows`."""
    with _new_file(None) as file:
        file.write(rows)
        file.flush()
        file.seek(0)
        yield file.fileno()


def _new_file(folder: Path | None) -> IO[bytes]:
    """A file without a name: in memory where the system has such files and no folder is named."""
    if folder is None and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("rows", os.MFD_CLOEXEC), "w+b")
    return tempfile.TemporaryFile(dir=folder)


async def receive_body(receive: Receive, encoding: str, spool: Path, bounds: BodyBounds) -> Body:
    """Read a whole body. Raises Failure: too large (413), malformed, silent for too long; ClientGone."""
    body = Body(spool, bounds.memory_bytes)
    try:
        decoder = None if encoding in ("", "identity") else Decoder(encoding)
        sent = 0
        more = True
        while more:
            try:
                message = await asyncio.wait_for(receive(), bounds.silence_s)
            except TimeoutError:
                raise Failure(
                    209, f"Timeout exceeded while receiving data from client: nothing for {bounds.silence_s:g} s"
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            data: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            sent += len(data)
            if sent > bounds.sent_bytes:
                raise Failure(229, f"The body is larger than the {bounds.sent_bytes} bytes allowed: send it in several inserts")
            for piece in (data,) if decoder is None else decoder.feed(data):
                body.write(piece)
                if body.size > bounds.unpacked_bytes:
                    raise Failure(229, f"The body unpacks to more than the {bounds.unpacked_bytes} bytes allowed")
                if decoder is not None and len(piece) == PIECE_BYTES:
                    await asyncio.sleep(0)  # a body that unpacks to a thousand times its size must not hold the loop
        if decoder is not None:
            decoder.finish()
    except BaseException:
        body.__exit__(None, None, None)
        raise
    return body
