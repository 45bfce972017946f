"""The process of the control plane: the checks before it listens, its loops, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import uvloop

from access.admission import require_credentials
from access.gates import told_of
from control_plane.http.app import create_app, dependencies
from control_plane.loops import running
from runtime.http_server import answer, listen, require_loopback
from runtime.life import Stop
from runtime.settings import Settings

logger = logging.getLogger(__name__)

PORT_DEFAULT = 3006


def run(settings: Settings, stop: Stop, *, host: str | None = None, port: int | None = None, dev: bool = False) -> None:
    """Serves until `stop` is set, then ends within `stop_within_s`.

    Raises MeterlineExit: nobody could come in, `dev` on an address that others reach, a port that cannot be had.
    """
    host = settings.http_host if host is None else host
    if port is None:
        port = PORT_DEFAULT if settings.http_port is None else settings.http_port
    if dev:
        require_loopback(host)
    else:
        require_credentials(settings)
    for told in told_of(settings):
        logger.warning(told)
    with contextlib.closing(listen(host, port)) as listener:
        if dev:
            logger.warning("development server: whoever reaches it may do everything, without credentials")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, stop, listener, dev=dev))
    logger.info("stopped")


async def _serve(settings: Settings, stop: Stop, listener: socket.socket, *, dev: bool) -> None:
    # Made inside the loop: the gate's pool belongs to it.
    deps = dependencies(settings, dev=dev)
    with running(deps.parts):
        await answer(create_app(deps), listener, stop, settings.stop_within_s)
