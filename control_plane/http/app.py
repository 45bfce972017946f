"""The HTTP application of the control plane: every noun's routes behind one gate. Nothing connects before its lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import anyio.to_thread
import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psycopg_pool import AsyncConnectionPool
from starlette.exceptions import HTTPException

from access.gates import gate_of
from access.verifiers import Gate
from control_plane.http.envelope import refuses, success
from control_plane.http.health import Readiness
from control_plane.http.nouns import NOUNS
from control_plane.parts import Parts, parts_of
from control_plane.refusals import Refusal
from runtime.http_edge import through
from runtime.postgres import async_pool
from runtime.settings import Settings

THREADS_A_CONNECTION: Final = 2
"""Requests in threads at most, for each connection: some wait for a provider meanwhile."""
FIELDS_TOLD_MAX: Final = 20
STOP_SHARE_POOL: Final = 0.1


@dataclass(frozen=True)
class Dependencies:
    """What the application talks to. Tests put their own in."""

    parts: Parts
    gate: Gate
    pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]]
    """What the gate reads through; opened and closed with the application."""


def dependencies(settings: Settings, *, dev: bool = False) -> Dependencies:
    """The real ones, not yet connected; to be made inside the event loop that serves."""
    pool = async_pool(settings)
    return Dependencies(parts_of(settings), gate_of(settings, pool, dev=dev, makes_accounts=True), pool)


def create_app(deps: Dependencies) -> FastAPI:
    """The application; it opens and closes what `deps` holds."""
    settings = deps.parts.settings
    readiness = Readiness(deps.parts, deps.gate)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.postgres_pool_max * THREADS_A_CONNECTION
        await deps.pool.open(wait=False)
        try:
            yield
        finally:
            await deps.pool.close(timeout=settings.stop_within_s * STOP_SHARE_POOL)
            await asyncio.to_thread(deps.parts.units.close)
            await asyncio.to_thread(deps.parts.readers.close)

    app = FastAPI(
        title="Meterline control plane",
        version=version("meterline-server"),
        lifespan=lifespan,
        middleware=through(settings, refuses, ["GET", "POST", "PUT", "DELETE"]),
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        # A path with a slash too many is no such path: a redirect would make clients send the body and the secret twice.
        redirect_slashes=False,
        exception_handlers={HTTPException: _refused_by_the_router, RequestValidationError: _not_valid},
    )
    app.state.gate = deps.gate
    app.state.parts = deps.parts
    for routes in NOUNS:
        app.include_router(routes.router)

    async def health(_: Request) -> Response:
        return success({"status": "ok"})

    async def ready(_: Request) -> Response:
        looked = await readiness.look()
        return success({"ready": looked.ready, "checks": looked.checks}, 200 if looked.ready else 503)

    async def metrics_text(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    opened: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("/health", health),
        ("/api/health", health),
        ("/ready", ready),
        ("/metrics", metrics_text),
    ]
    for path, endpoint in opened:
        app.add_api_route(path, endpoint, methods=["GET"], tags=["health"], response_class=Response, response_model=None)
    return app


async def _refused_by_the_router(_: Request, error: Exception) -> Response:
    """No such path, no such method: told as every other refusal is."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        raise Refusal("not_found", "method_not_allowed", "This path does not take this method; /docs shows what there is.")
    raise Refusal("not_found", "no_such_route", "There is no such path; /docs shows what there is.")


async def _not_valid(_: Request, error: Exception) -> Response:
    """Names each field and what is wrong with it; never what was sent, where a secret could stand."""
    assert isinstance(error, RequestValidationError)
    told = [
        {"field": ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0]), "problem": problem["msg"]}
        for problem in error.errors()[:FIELDS_TOLD_MAX]
    ]
    fields = ", ".join(one["field"] for one in told)
    raise Refusal(
        "invalid", "invalid_request", f"The request is not valid: {fields}. Correct it; /docs shows the form.", {"fields": told}
    )
