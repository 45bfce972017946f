"""The HTTP application: routes to what answers them. Nothing connects before its lifespan begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from access.gates import gate_of
from access.principals import Principal, Who, require_role
from access.verifiers import Gate
from entitlements.bodies import read_body
from entitlements.checks import Checks
from entitlements.counted import Fences, timeout_of
from entitlements.edge import refuses
from entitlements.explaining import Explaining
from entitlements.freshness import Freshness
from entitlements.kafka_sink import KafkaSink
from entitlements.last_known import LastKnown
from entitlements.log_epochs import LogEpochs
from entitlements.models import ENCODER, Health
from entitlements.names import KnownNames
from entitlements.openapi import document
from entitlements.permissions import PERMISSIONS
from entitlements.problems import Problem
from entitlements.readiness import Readiness
from entitlements.reservations import Reservations
from entitlements.series import Series
from entitlements.sink import UsageSink
from entitlements.standings import Standings
from entitlements.store import Store
from entitlements.summaries import Summaries, page_size
from entitlements.usage import Recorder
from entitlements.waiting import Waiting
from entitlements.warehouse import Warehouse
from runtime import trace
from runtime.http_edge import through
from runtime.settings import Settings

STOP_SHARE_SINK = 0.4
STOP_SHARE_STORE = 0.1
"""Of `stop_within_s`: for what requests published, for connections. Requests under way have their own share, and the rest is
the interpreter's."""


@dataclass(frozen=True)
class Dependencies:
    """What the application talks to. Tests put their own in."""

    store: Store
    gate: Gate
    sink: UsageSink
    epochs: LogEpochs


def dependencies(settings: Settings, *, dev: bool = False, sink: UsageSink | None = None) -> Dependencies:
    """The real ones, not yet connected. `dev` lets in who shows no credentials; the caller sees to it that it is loopback."""
    store = Store(settings)
    epochs = LogEpochs(store)
    return Dependencies(store, gate_of(settings, store.pool, dev=dev), sink or KafkaSink(settings, epochs), epochs)


def create_app(settings: Settings, deps: Dependencies, promised: Callable[[], None] = lambda: None) -> FastAPI:
    """The application; it opens and closes what `deps` holds. `promised` is called when something waits in the outbox."""
    freshness = Freshness(deps.store)
    standings = Standings(deps.store)
    otherwise = None if settings.degraded_default == "unavailable" else settings.degraded_default
    checks = Checks(standings, freshness, LastKnown(settings.degraded_age_max_s), otherwise)
    # Half of the connections at most: who waits for a busy tenant's lock must not keep everybody's checks waiting.
    reserving_max = max(1, settings.postgres_pool_max // 2)
    reservations = Reservations(deps.store, standings, settings.topic_events, reserving_max, promised)
    waiting = Waiting(Fences(deps.store), deps.epochs, deps.sink)
    recorder = Recorder(deps.sink, KnownNames(deps.store), waiting)
    summaries = Summaries(deps.store, freshness)
    warehouse = Warehouse(settings)
    series = Series(deps.store, warehouse, freshness)
    explaining = Explaining(settings, warehouse)
    readiness = Readiness(deps.store, deps.sink, deps.gate)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await deps.store.open()
        await deps.sink.open()
        refresher = asyncio.create_task(freshness.run())
        try:
            yield
        finally:
            refresher.cancel()
            with suppress(asyncio.CancelledError):
                await refresher
            # First what was promised to callers, then what it needs.
            await deps.sink.close(settings.stop_within_s * STOP_SHARE_SINK)
            await warehouse.close()
            await deps.store.close(settings.stop_within_s * STOP_SHARE_STORE)

    app = FastAPI(
        title="Meterline entitlements",
        lifespan=lifespan,
        middleware=middleware(settings),
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        # A path with a slash too many is no such path: a redirect would make clients send the body and the secret twice.
        redirect_slashes=False,
        exception_handlers={HTTPException: _as_problem, RequestValidationError: _as_problem},
    )
    app.state.gate = deps.gate
    shown = document(version("meterline-server"))
    app.openapi = lambda: shown  # type: ignore[method-assign]

    async def body_of(request: Request) -> bytes:
        return await read_body(request, settings.http_body_max)

    async def check(request: Request, principal: Principal) -> Response:
        return _json(200, await checks.one(await body_of(request), principal))

    async def check_batch(request: Request, principal: Principal) -> Response:
        return _json(200, await checks.batch(await body_of(request), principal))

    async def usage(request: Request, principal: Principal) -> Response:
        wait_s = _wait_of(request)
        headers = request.scope["headers"]
        return _json(202, await recorder.one(headers, await body_of(request), principal, _trace_of(request), wait_s))

    async def usage_batch(request: Request, principal: Principal) -> Response:
        wait_s = _wait_of(request)
        headers = request.scope["headers"]
        answer = await recorder.batch(headers, await body_of(request), principal, _trace_of(request), wait_s)
        return _json(207 if answer.refused else 202, answer)

    async def summary(request: Request, principal: Principal) -> Response:
        query = request.query_params
        tenant_id = request.path_params["tenantId"]
        count = page_size(query.get("limit"))
        return _json(200, await summaries.of(tenant_id, principal, query.get("period"), query.get("cursor", ""), count))

    async def reserve(request: Request, principal: Principal) -> Response:
        key = request.headers.get("idempotency-key")
        return _json(201, await reservations.reserve(await body_of(request), principal, key))

    async def settle(request: Request, principal: Principal) -> Response:
        hold_id = request.path_params["reservationId"]
        return _json(200, await reservations.settle(hold_id, await body_of(request), principal, _trace_of(request)))

    async def release(request: Request, principal: Principal) -> Response:
        return _json(200, await reservations.release(request.path_params["reservationId"], principal))

    async def reservation(request: Request, principal: Principal) -> Response:
        return _json(200, await reservations.show(request.path_params["reservationId"], principal))

    async def usage_series(request: Request, principal: Principal) -> Response:
        return _json(200, await series.of(request.path_params["tenantId"], principal, request.query_params))

    async def explain(request: Request, _: Principal) -> Response:
        return _json(200, await explaining.of(request.query_params))

    async def health(_: Request) -> Response:
        return _json(200, Health("ok"))

    async def ready(_: Request) -> Response:
        looked = await readiness.look()
        return _json(200 if looked.ready else 503, looked)

    async def metrics_text(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    routes: list[tuple[str, str, Callable[..., Any]]] = [
        ("POST", "/v1/billing/entitlements/check", check),
        ("POST", "/v1/billing/entitlements/check/batch", check_batch),
        ("POST", "/v1/billing/usage", usage),
        ("POST", "/v1/billing/usage/batch", usage_batch),
        ("POST", "/v1/billing/reservations", reserve),
        ("POST", "/v1/billing/reservations/{reservationId}/settle", settle),
        ("POST", "/v1/billing/reservations/{reservationId}/release", release),
        ("GET", "/v1/billing/reservations/{reservationId}", reservation),
        # An id may hold a slash, which arrives decoded.
        ("GET", "/v1/billing/summaries/{tenantId:path}", summary),
        ("GET", "/v1/billing/usage/{tenantId:path}", usage_series),
        ("GET", "/v1/billing/explain", explain),
        ("GET", "/health", health),
        ("GET", "/ready", ready),
        ("GET", "/metrics", metrics_text),
    ]
    for method, path, endpoint in routes:
        allowed = PERMISSIONS[method, path]
        handler = endpoint if allowed is None else _guarded(deps.gate, allowed, endpoint)
        app.add_api_route(path, handler, methods=[method], response_class=Response, response_model=None)
    return app


def middleware(settings: Settings) -> list[Middleware]:
    """What every request passes through, outermost first."""
    return through(settings, refuses, ["GET", "POST"])


def _guarded(
    gate: Gate, allowed: frozenset[Who], endpoint: Callable[[Request, Principal], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, behind the gate and its line in the table of permissions."""

    async def enter(request: Request) -> Response:
        principal = await gate.principal(request.scope["headers"])
        require_role(principal, allowed)
        return await endpoint(request, principal)

    return enter


class _Json(Response):
    """A response whose head is known; Starlette's own constructor costs as much as all of the encoding."""

    def __init__(self, body: bytes, status: int) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]


def _json(status: int, answer: msgspec.Struct | dict[str, Any]) -> Response:
    return _Json(ENCODER.encode(answer), status)


def _wait_of(request: Request) -> float | None:
    """How long to wait until the event is counted; None: not at all. Raises Problem 400."""
    wait = request.query_params.get("wait")
    if wait is None:
        return None
    if wait != "counted":
        raise Problem(400, "bad_wait", "wait has one value: counted.")
    return timeout_of(request.query_params.get("timeout"))


def _trace_of(request: Request) -> str:
    """The traceparent to send on: below the caller's, or of a trace that begins here."""
    state = request.scope["state"]
    if "trace" not in state:
        state["trace"] = trace.new()
    return str(state["trace"])


_ROUTING = {
    404: ("no_such_route", "There is no such path"),
    405: ("method_not_allowed", "This path does not take this method"),
}


async def _as_problem(request: Request, error: Exception) -> Response:
    """What the router itself refuses (no such path, no such method) leaves as every other problem does."""
    if isinstance(error, HTTPException):
        code, found = _ROUTING.get(error.status_code, ("bad_request", str(error.detail)))
        raise Problem(error.status_code, code, f"{found}; /docs shows what there is.", headers=error.headers)
    raise Problem(400, "bad_request", "The request is not valid; see /docs.")
