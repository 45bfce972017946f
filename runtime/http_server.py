"""The process of an HTTP server: the socket before anything else, uvicorn on it, an end with the process's own Stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

import uvicorn
import uvloop
from starlette.types import ASGIApp

from runtime.exits import Exit, MeterlineExit
from runtime.http_protocol import BoundedProtocol
from runtime.life import Stop, collect_seldom

logger = logging.getLogger(__name__)

BACKLOG = 1024
KEEP_ALIVE_S = 75
GC_EVERY_OBJECTS = 20_000
CONNECTIONS_MAX = 10_000
"""More open connections and requests than this get 503 from the server itself."""
STOP_SHARE_REQUESTS: Final = 0.4
"""Of `stop_within_s`: for requests under way."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises MeterlineExit where it cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise MeterlineExit(Exit.SETTINGS, f"{host} is no address to listen on ({error}); set METERLINE_HTTP_HOST") from None
    # With its protocol named, for only then does the event loop switch off Nagle's algorithm: it cost each answer 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise MeterlineExit(
            Exit.SETTINGS,
            f"cannot listen on {host}:{port} ({error.strerror}); end what listens there, or choose another with --port",
        ) from None
    return listener


def require_loopback(host: str) -> None:
    """For `--dev`. Raises MeterlineExit for an address that others reach."""
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    if not loopback:
        raise MeterlineExit(
            Exit.SETTINGS, f"--dev lets everybody in, so it listens on 127.0.0.1 only, not on {host}; leave --host out, or --dev"
        )


def run(serve: Callable[[socket.socket], Coroutine[Any, Any, None]], host: str, port: int) -> None:
    """Blocks while `serve` answers on a socket of this address, in an event loop of its own. Raises MeterlineExit."""
    with contextlib.closing(listen(host, port)) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(listener))
    logger.info("stopped")


async def answer(app: ASGIApp, listener: socket.socket, stop: Stop, stop_within_s: float) -> None:
    """Serves `app` on the socket until `stop` is set, then ends within its share of `stop_within_s`."""
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        # Nothing here looks at the address or the scheme that a request came by.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=CONNECTIONS_MAX,
        backlog=BACKLOG,
        lifespan="on",
        timeout_graceful_shutdown=max(1, int(stop_within_s * STOP_SHARE_REQUESTS)),
    )
    await _Server(config, stop).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, ended by the process's own Stop, so that SIGTERM ends it with status 0."""

    def __init__(self, config: uvicorn.Config, stop: Stop) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to Stop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # A request leaves next to nothing for the collector; at its own pace it would look a hundred times a second.
        collect_seldom(GC_EVERY_OBJECTS)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            logger.info("listening", extra={"host": host, "port": port})

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._stop.is_set()
        return await super().on_tick(counter)
