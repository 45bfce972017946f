"""The way past the router for routes whose path is fixed: what FastAPI does for a request costs more than most checks do.

The routes are FastAPI's own, which answers for every other method, path and document, behind the same middleware.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send


class Direct:
    """The ASGI application that is served. A route with a parameter in its path is left to FastAPI."""

    def __init__(self, app: FastAPI, middleware: Sequence[Middleware]) -> None:
        """`middleware` are the ones that `app` was made with, outermost first."""
        self._app = app
        self._routes = {
            (method, route.path): route
            for route in app.routes
            if isinstance(route, APIRoute) and not route.param_convertors
            for method in route.methods or ()
        }
        self._answered: ASGIApp = self._answer
        for one in reversed(middleware):
            self._answered = one.cls(self._answered, *one.args, **one.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["method"], scope["path"]) in self._routes:
            await self._answered(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = scope["route"] = self._routes[scope["method"], scope["path"]]
        response = await route.endpoint(Request(scope, receive))
        await response(scope, receive, send)
