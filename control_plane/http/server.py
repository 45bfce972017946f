"""The process of the control plane: the checks before it listens, its loops, its end."""

from __future__ import annotations

import socket

from access.admission import before_listening
from control_plane.http.app import create_app, dependencies
from control_plane.loops import running
from runtime import http_server
from runtime.life import Stop
from runtime.settings import Settings

PORT_DEFAULT = 3006


def run(settings: Settings, stop: Stop, *, host: str | None = None, port: int | None = None, dev: bool = False) -> None:
    """Serves until `stop` is set, then ends within `stop_within_s`.

    Raises MeterlineExit: nobody could come in, `dev` on an address that others reach, a port that cannot be had.
    """
    host = settings.http_host if host is None else host
    if port is None:
        port = PORT_DEFAULT if settings.http_port is None else settings.http_port
    before_listening(settings, host, dev=dev)
    http_server.run(lambda listener: _serve(settings, stop, listener, dev=dev), host, port)


async def _serve(settings: Settings, stop: Stop, listener: socket.socket, *, dev: bool) -> None:
    # Made inside the loop: the gate's pool belongs to it.
    deps = dependencies(settings, dev=dev)
    with running(deps.parts):
        await http_server.answer(create_app(deps), listener, stop, settings.stop_within_s)
