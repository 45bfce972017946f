"""The process of the endpoint: the checks before it listens, the socket, the server, the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import socket
from collections.abc import Iterator

import psycopg
import uvicorn
import uvloop

from access.gates import somebody_may_come_in, told_of
from entitlements.app import STOP_SHARE_REQUESTS, create_app, dependencies, middleware
from entitlements.direct import Direct
from entitlements.loops import running
from entitlements.protocol import BoundedProtocol
from runtime.exits import Exit, MeterlineExit
from runtime.life import Stop
from runtime.postgres import connect
from runtime.settings import Settings

logger = logging.getLogger(__name__)

PORT_DEFAULT = 8080
BACKLOG = 1024
KEEP_ALIVE_S = 75
GC_EVERY_OBJECTS = 20_000
CONNECTIONS_MAX = 10_000
"""More open connections and requests than this get 503 from the server itself."""


def run(settings: Settings, stop: Stop, *, host: str | None = None, port: int | None = None, dev: bool = False) -> None:
    """Serves until `stop` is set, then ends within `stop_within_s`.

    Raises MeterlineExit: nobody could come in, `dev` on an address that others reach, a port that cannot be had.
    """
    host = settings.http_host if host is None else host
    if port is None:
        port = PORT_DEFAULT if settings.http_port is None else settings.http_port
    if dev:
        _require_loopback(host)
    else:
        _require_credentials(settings)
    for told in told_of(settings):
        logger.warning(told)
    listener = _listen(host, port)
    with contextlib.closing(listener):
        address = listener.getsockname()
        where = {"host": address[0], "port": address[1]}
        if dev:
            logger.warning("development server: whoever reaches it may do everything, without credentials", extra=where)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, stop, listener, dev=dev))
    logger.info("stopped")


async def _serve(settings: Settings, stop: Stop, listener: socket.socket, *, dev: bool) -> None:
    # Made inside the loop: the store's pool belongs to it.
    deps = dependencies(settings, dev=dev)
    with running(settings) as relay:
        await _answer(settings, stop, listener, Direct(create_app(settings, deps, relay.promised), middleware(settings)))


async def _answer(settings: Settings, stop: Stop, listener: socket.socket, app: Direct) -> None:
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
        timeout_graceful_shutdown=max(1, int(settings.stop_within_s * STOP_SHARE_REQUESTS)),
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
        # What lives now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        # A request leaves next to nothing for the collector; at its own pace it would look a hundred times a second.
        gc.set_threshold(GC_EVERY_OBJECTS, 20, 100)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            logger.info("listening", extra={"host": host, "port": port})

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._stop.is_set()
        return await super().on_tick(counter)


def _listen(host: str, port: int) -> socket.socket:
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


def _require_loopback(host: str) -> None:
    loopback = host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = loopback or ipaddress.ip_address(host).is_loopback
    if not loopback:
        raise MeterlineExit(
            Exit.SETTINGS, f"--dev lets everybody in, so it listens on 127.0.0.1 only, not on {host}; leave --host out, or --dev"
        )


def _require_credentials(settings: Settings) -> None:
    """Refuses to serve what nobody could use. While Postgres is away that is not known: /ready says so until it is."""
    try:
        with connect(settings) as connection:
            somebody = somebody_may_come_in(settings, connection)
    except psycopg.OperationalError as error:
        logger.warning("postgres does not answer yet; starting all the same", extra={"error": str(error).strip()})
        return
    except psycopg.errors.UndefinedTable:
        logger.warning("the database is not migrated yet; run `meterline migrate`")
        return
    if not somebody:
        raise MeterlineExit(
            Exit.SETTINGS,
            "no verifier is configured: there is no valid service secret or API key, and neither METERLINE_JWT_ACCESS_SECRET "
            "nor METERLINE_CLERK_JWT_KEY or _ISSUER is set, so nobody could come in. "
            "Run `meterline secrets create NAME --emits-for SERVICE`, or start with --dev to try it out on this machine",
        )
