"""What every request passes through: an id, a time limit, the security headers, and an answer whatever happens inside."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from functools import cache

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from access.principals import AccessRefused
from entitlements.problems import MEDIA_TYPE, Problem
from entitlements.store import StoreAway
from runtime import metrics, trace
from runtime.logs import bound
from runtime.warehouse import WarehouseAway

logger = logging.getLogger(__name__)

ANSWER_WITHIN_S = 30.0
"""Longest time for one request, its body and `wait=counted` included."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SECURITY: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"cache-control", b"no-store"),
]
_NO_CONTENT_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
# The page that shows the OpenAPI document loads its viewer from elsewhere.
_DOCS_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; connect-src 'self'; img-src 'self' https: data:; style-src https: 'unsafe-inline';"
    b" script-src https: 'unsafe-inline'; frame-ancestors 'none'",
)
_DOCS = ("/docs", "/docs/oauth2-redirect")


def request_id_of(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-Id if it is short and plain, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value.decode("ascii")
    return os.urandom(16).hex()


class Edge:
    """ASGI middleware, outermost. Everything a route raises ends here as a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        fields: dict[str, object] = {"request_id": exchange.request_id}
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
        if parent is not None:
            follower = trace.following(parent.decode("latin-1"))
            scope["state"]["trace"] = follower
            fields["traceparent"] = str(follower)
        with bound(**fields):
            try:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    await self._app(scope, receive, exchange.send)
            except Problem as problem:
                await exchange.refuse(problem)
            except AccessRefused as refused:
                await exchange.refuse(Problem.of_access(refused))
            except StoreAway as away:
                await exchange.refuse(Problem.try_again("store_unavailable", str(away)))
            except WarehouseAway as away:
                await exchange.refuse(Problem.try_again("clickhouse_unavailable", str(away)))
            except TimeoutError:
                late = f"No answer within {ANSWER_WITHIN_S:.0f} s. Whether usage was recorded is not known; send it again."
                await exchange.refuse(Problem.try_again("timeout", late))
            except Exception:
                # The last resort: a defect of ours must still be an answer with an id to ask about.
                logger.exception("request failed", extra={"path": scope["path"]})
                detail = "This is a defect of the server; its log has the cause under this requestId."
                await exchange.refuse(Problem(500, "internal", detail))
            exchange.note()


@cache
def _counters(endpoint: str, status: int) -> tuple[Counter, Histogram]:
    """Kept, for finding them by their labels costs more than counting. As many as there are routes and statuses."""
    return metrics.HTTP_REQUESTS.labels(endpoint, str(status)), metrics.HTTP_SECONDS.labels(endpoint)


class _Exchange:
    """One request and the answer to it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = request_id_of(scope["headers"])
        scope.setdefault("state", {})["request_id"] = self.request_id
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()
        self._status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            policy = _DOCS_POLICY if self._scope["path"] in _DOCS else _NO_CONTENT_POLICY
            message["headers"] = [*message["headers"], (b"x-request-id", self.request_id.encode()), *_SECURITY, policy]
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answers with the problem, unless an answer has begun: that one can only be cut."""
        if self._status:
            logger.error("answer was cut", extra={"path": self._scope["path"], "code": problem.code})
            raise problem
        body = problem.document(self.request_id)
        headers = [(b"content-type", MEDIA_TYPE), (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
        logger.info("request refused", extra={"path": self._scope["path"], "status": problem.status, "code": problem.code})
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def note(self) -> None:
        """Counts the request, by the route's own path: what a client makes up is no label."""
        seconds = time.perf_counter() - self._started
        endpoint = getattr(self._scope.get("route"), "path", "none")
        requests, took = _counters(endpoint, self._status)
        requests.inc()
        took.observe(seconds)
        if logger.isEnabledFor(logging.DEBUG):
            extra = {"method": self._scope["method"], "path": self._scope["path"], "status": self._status}
            logger.debug("request", extra={**extra, "seconds": round(seconds, 6)})
