"""What every HTTP request passes through: an id, a time limit, the security headers, and an answer whatever happens inside."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final, Protocol

from prometheus_client import Counter, Histogram
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime import metrics, trace
from runtime.logs import bound
from runtime.settings import Settings

logger = logging.getLogger(__name__)

ANSWER_WITHIN_S: Final = 30.0
"""Longest time for one request, its body included."""

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


class Late(Exception):
    """No answer within ANSWER_WITHIN_S. Whether what was asked for was done is not known."""


class Defect(Exception):
    """Something that nobody foresaw; its cause is in the log."""


class Refusing(Protocol):
    """An answer that refuses."""

    @property
    def status(self) -> int: ...

    @property
    def code(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def media_type(self) -> bytes: ...

    def document(self, request_id: str) -> bytes:
        """The body of the answer."""
        ...


Refuses = Callable[[Exception], Refusing | None]
"""How an exception is answered; Late and Defect always are, and None stands for what nobody foresaw."""


def request_id_of(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's X-Request-Id if it is short and plain, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return value.decode("ascii")
    return os.urandom(16).hex()


class Edge:
    """ASGI middleware, outermost. Everything a route raises ends here as an answer."""

    def __init__(self, app: ASGIApp, refuses: Refuses) -> None:
        self._app = app
        self._refuses = refuses

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
            except TimeoutError:
                await exchange.refuse(self._certain(Late()), Late())
            except Exception as error:
                refusing = self._refuses(error)
                if refusing is None:
                    # The last resort: a defect of ours must still be an answer with an id to ask about.
                    logger.exception("request failed", extra={"path": scope["path"]})
                    refusing = self._certain(Defect())
                await exchange.refuse(refusing, error)
            exchange.note()

    def _certain(self, error: Late | Defect) -> Refusing:
        refusing = self._refuses(error)
        assert refusing is not None, "Late and Defect are always answered"
        return refusing


def through(settings: Settings, refuses: Refuses, methods: Sequence[str]) -> list[Middleware]:
    """What every request passes through, outermost first: the edge, and CORS where origins are allowed `methods`."""
    passed = [Middleware(Edge, refuses)]
    origins = [origin.strip() for origin in settings.cors_origin.split(",") if origin.strip()]
    if origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=list(methods),
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Service-Secret", "X-Request-Id", "Traceparent"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
        passed.append(cors)
    return passed


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

    async def refuse(self, refusing: Refusing, error: Exception) -> None:
        """Answers with the refusal, unless an answer has begun: that one can only be cut."""
        if self._status:
            logger.error("answer was cut", extra={"path": self._scope["path"], "code": refusing.code})
            raise error
        body = refusing.document(self.request_id)
        headers = [(b"content-type", refusing.media_type), (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in refusing.headers.items()]
        logger.info("request refused", extra={"path": self._scope["path"], "status": refusing.status, "code": refusing.code})
        await self.send({"type": "http.response.start", "status": refusing.status, "headers": headers})
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
