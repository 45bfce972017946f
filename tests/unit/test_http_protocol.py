"""A request's head is bounded in size and time, over real connections; everything else is as it was."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from runtime import http_protocol as protocol

REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def served(client: Callable[[int], Awaitable[bytes]]) -> bytes:
    """What `client` got from a server of ours on a port of its own."""

    async def run() -> bytes:
        config = uvicorn.Config(
            Starlette(routes=[Route("/", echo, methods=["POST"])]),
            http=protocol.BoundedProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
        )
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                return await asyncio.wait_for(client(listener.getsockname()[1]), 20)
            finally:
                server.should_exit = True
                await serving

    return asyncio.run(run())


async def exchange(port: int, *pieces: bytes, answers: int = 0) -> bytes:
    """Sends the pieces; reads until the server closes, or until it has answered so often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        while not answers or got.count(b"abc") < answers:
            data = await reader.read(1 << 16)
            if not data:
                break
            got += data
    except ConnectionError:
        pass
    finally:
        writer.close()
    return got


def test_a_head_that_never_ends_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN_S", 0.2)
    assert served(lambda port: exchange(port, b"POST / HTTP/1.1\r\nhost:")).startswith(b"HTTP/1.1 408 ")
    assert served(lambda port: exchange(port)).startswith(b"HTTP/1.1 408 ")


def test_the_head_of_a_later_request_is_bounded_in_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_WITHIN_S", 0.2)
    got = served(lambda port: exchange(port, REQUEST + b"POST / HTTP/1.1\r\n"))
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in got


def test_a_head_that_is_too_large_is_refused() -> None:
    # The last piece crosses the bound: the server has read all that was sent when it refuses.
    pieces = [b"POST / HTTP/1.1\r\n", *[b"x-filler: " + b"a" * 8_000 + b"\r\n"] * 8, b"x-last: " + b"a" * 2_000 + b"\r\n"]
    assert served(lambda port: exchange(port, *pieces)).startswith(b"HTTP/1.1 431 ")


def test_requests_one_after_the_other_and_large_bodies_pass() -> None:
    got = served(lambda port: exchange(port, REQUEST * 50, answers=50))
    assert got.count(b"HTTP/1.1 200 ") == 50
    large = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300003\r\n\r\n" + b"." * 300_000 + b"abc"
    assert served(lambda port: exchange(port, large, answers=1)).startswith(b"HTTP/1.1 200 ")
