"""The control plane's application on a real socket, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from control_plane.http.app import create_app, dependencies
from runtime.http_server import answer, listen
from runtime.life import Stop
from runtime.settings import Settings

ANSWER_WITHIN_S = 20.0


@contextmanager
def control_plane_served(settings: Settings) -> Iterator[httpx.Client]:
    """A client of it, without credentials, while the block runs. Its loops do not run: tests call their turns."""
    stop, listener = Stop(), listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def serve() -> None:
        await answer(create_app(dependencies(settings)), listener, stop, 5.0)

    server = threading.Thread(target=asyncio.run, args=(serve(),))
    server.start()
    try:
        # The port is ours and not listening yet while the application starts: connecting is tried again.
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(base_url=url, timeout=ANSWER_WITHIN_S, transport=transport) as client:
            yield client
    finally:
        stop.set()
        server.join(10)
        listener.close()
    assert not server.is_alive()
