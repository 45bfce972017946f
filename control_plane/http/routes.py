"""Routes of a noun. Each says who may call it: one that does not cannot be added."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive

from access.principals import Who, require_role
from access.verifiers import Gate
from control_plane.http.calls import KEY_CHARACTERS_MAX, Call
from control_plane.http.exact import ExactRequest
from control_plane.parts import Parts
from control_plane.refusals import Refusal
from runtime.http_edge import request_id_of

EVERYBODY: Final[frozenset[Who]] = frozenset(
    {"service", "key", "user", "supervisor", "admin", "org_member", "org_billing", "org_admin"}
)
"""Everybody who came in."""
READERS: Final[frozenset[Who]] = frozenset({"service", "admin", "org_member", "org_billing", "org_admin"})
"""Who may look at a tenant's contract and bills."""
WRITERS: Final[frozenset[Who]] = frozenset({"service", "admin", "org_billing", "org_admin"})
"""Who may change them."""
OPEN: Final = None
"""Needs no credentials: a probe, or something that proves itself by a signature."""

_BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
F = TypeVar("F", bound=Callable[..., Any])
_ALLOWED: dict[Callable[..., Any], frozenset[Who] | None] = {}


class GuardedRoute(APIRoute):
    """Lets in first, and reads the body after that."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        allowed = _ALLOWED[self.endpoint]
        reads_json = self.body_field is not None

        async def handle(request: Request) -> Response:
            parts, gate = request.app.state.parts, request.app.state.gate
            assert isinstance(parts, Parts)
            assert isinstance(gate, Gate)
            exact = ExactRequest(request.scope, _bounded(request.receive, parts.settings.http_body_max))
            if allowed is not None:
                principal = await gate.principal(request.scope["headers"])
                require_role(principal, allowed)
                body = await exact.body() if request.method in _BODY_METHODS else b""
                if reads_json and body:
                    await exact.json()
                asked = f"{request.method} {request.url.path}?{request.url.query}\n".encode() + body
                exact.state.call = Call(
                    principal,
                    str(request.scope["state"].get("request_id") or request_id_of(request.scope["headers"])),
                    parts,
                    _key_of(request),
                    hashlib.sha256(asked).digest(),
                )
            return await answer(exact)

        return handle


class Routes:
    """What a noun offers over HTTP."""

    def __init__(self, noun: str) -> None:
        self.router = APIRouter(tags=[noun], route_class=GuardedRoute)

    def get(self, path: str, allow: frozenset[Who] | None, *, shows: Any = None) -> Callable[[F], F]:
        """`shows` is the answer's model for the document, as `Success[Plan]`."""
        return self._route("GET", path, allow, shows)

    def post(self, path: str, allow: frozenset[Who] | None, *, shows: Any = None, status: int = 200) -> Callable[[F], F]:
        return self._route("POST", path, allow, shows, status)

    def put(self, path: str, allow: frozenset[Who] | None, *, shows: Any = None) -> Callable[[F], F]:
        return self._route("PUT", path, allow, shows)

    def delete(self, path: str, allow: frozenset[Who] | None, *, shows: Any = None) -> Callable[[F], F]:
        return self._route("DELETE", path, allow, shows)

    def _route(self, method: str, path: str, allow: frozenset[Who] | None, shows: Any, status: int = 200) -> Callable[[F], F]:
        def add(endpoint: F) -> F:
            assert _ALLOWED.setdefault(endpoint, allow) == allow, "an endpoint has one set of roles"
            self.router.add_api_route(path, endpoint, methods=[method], response_model=shows, status_code=status)
            return endpoint

        return add


def allowed_of(nouns: Iterable[Routes]) -> dict[tuple[str, str], frozenset[Who] | None]:
    """Who may call which route; None: open."""
    return {
        (method, route.path): _ALLOWED[route.endpoint]
        for routes in nouns
        for route in routes.router.routes
        if isinstance(route, GuardedRoute)
        for method in sorted(route.methods or ())
    }


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > bytes_max:
            raise Refusal("too_large", "too_large", f"The body is larger than {bytes_max} bytes; send less.")
        return message

    return bounded


def _key_of(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (1 <= len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
        raise Refusal(
            "invalid",
            "bad_idempotency_key",
            f"Idempotency-Key has 1 to {KEY_CHARACTERS_MAX} printable ASCII characters; a UUID does well.",
        )
    return key
