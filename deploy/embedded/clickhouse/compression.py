"""Content-Encoding of requests and answers. Every decoder gives at most a bounded piece at a time."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import lz4.frame  # type: ignore[import-untyped]

from deploy.embedded.clickhouse.failures import Failure

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 1 << 20
_PREFERRED = ("lz4", "zstd", "gzip", "deflate")
"""The quickest first: what the client names and we have."""


class Encoder(Protocol):
    def feed(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class Decoder:
    """Unpacks a body that comes in pieces. Several frames one after the other are one body."""

    def __init__(self, encoding: str) -> None:
        """Raises Failure (415) for an encoding that is not known."""
        if encoding not in _PREFERRED:
            raise Failure(779, f"Unknown Content-Encoding {encoding[:32]!r}, want one of {', '.join(_PREFERRED)}")
        self._encoding = encoding
        self._frame: Any = None
        self._started = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` unpacks to, in pieces of at most PIECE_BYTES. Raises Failure (271) when it cannot be unpacked."""
        try:
            if self._encoding in ("gzip", "deflate"):
                yield from self._inflate(data)
            else:
                yield from self._frames(data)
        except (zlib.error, zstd.ZstdError, RuntimeError, EOFError) as error:
            raise Failure(271, f"The body is not {self._encoding}: {error}") from None

    def finish(self) -> None:
        """Raise Failure (271) when the body ended inside a frame."""
        if self._frame is not None:
            raise Failure(271, f"The {self._encoding} body ends too early")

    def _frames(self, data: bytes) -> Iterator[bytes]:
        while data or (self._frame is not None and not self._frame.needs_input):
            if self._frame is None:
                self._frame = lz4.frame.LZ4FrameDecompressor() if self._encoding == "lz4" else zstd.ZstdDecompressor()
            piece = self._frame.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            data = b""
            if self._frame.eof:
                data, self._frame = self._frame.unused_data or b"", None

    def _inflate(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._frame is None:
                self._frame = zlib.decompressobj(31 if self._encoding == "gzip" else self._deflate_bits(data))
            piece = self._frame.decompress(data, PIECE_BYTES)
            if piece:
                yield piece
            data = self._frame.unconsumed_tail
            if self._frame.eof:
                data, self._frame = self._frame.unused_data, None

    @staticmethod
    def _deflate_bits(data: bytes) -> int:
        # "deflate" means zlib's format; some clients send the raw stream, which has no such first byte.
        return 15 if data[0] & 0x0F == 8 else -15


class _Lz4:
    def __init__(self) -> None:
        self._frame = lz4.frame.LZ4FrameCompressor(auto_flush=True)
        self._head = self._frame.begin()

    def feed(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        return bytes(head + self._frame.compress(data))

    def finish(self) -> bytes:
        return bytes(self._head + self._frame.flush())


class _Zstd:
    def __init__(self) -> None:
        self._frame = zstd.ZstdCompressor(level=1)

    def feed(self, data: bytes) -> bytes:
        return self._frame.compress(data, zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._frame.flush()


class _Zlib:
    def __init__(self, bits: int) -> None:
        self._stream = zlib.compressobj(1, zlib.DEFLATED, bits)

    def feed(self, data: bytes) -> bytes:
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._stream.flush()


def choose(accepted: str) -> str | None:
    """The encoding to answer in, or None for the plain bytes. `accepted` is an Accept-Encoding header."""
    named = {
        part.split(";")[0].strip().lower() for part in accepted.split(",") if "q=0" not in part.replace(" ", "").split(";")[1:]
    }
    return next((encoding for encoding in _PREFERRED if encoding in named), None)


def encoder(encoding: str) -> Encoder:
    if encoding == "lz4":
        return _Lz4()
    if encoding == "zstd":
        return _Zstd()
    return _Zlib(31 if encoding == "gzip" else 15)
