"""The way past the router for routes whose path is fixed: what FastAPI does for a request costs more than most checks do.

The routes themselves stand in one table and are FastAPI's too, which answers for every other method, path and document.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Way:
    """A route as the metrics know it, and what answers it."""

    path: str
    endpoint: Endpoint


class Direct:
    """ASGI middleware. A route with a parameter in its path is not for it."""

    def __init__(self, app: ASGIApp, ways: Mapping[tuple[str, str], Endpoint]) -> None:
        self._app = app
        self._ways = {(method, path): Way(path, endpoint) for (method, path), endpoint in ways.items() if "{" not in path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self._ways.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if way is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = way
        response = await way.endpoint(Request(scope, receive))
        await response(scope, receive, send)
