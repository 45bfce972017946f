"""The methods of a service, each with who may call it; and what every call passes through before and after its method."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from access.principals import Principal, Who, require_role
from access.verifiers import Gate
from control_plane.grpc.calls import LONGEST_S, Late, RpcCall, fingerprint_of, idempotency_key_of
from control_plane.grpc.statuses import Answer, answer_of
from control_plane.parts import Parts
from runtime import metrics
from runtime.logs import bound

logger = logging.getLogger(__name__)

SERVICES: Final[frozenset[Who]] = frozenset({"service"})
"""Our own services, which see every organization."""
ORGANIZATIONS: Final[frozenset[Who]] = frozenset({"service", "key"})
"""And an organization's own software, for what is its own."""
SIGNED: Final = None
"""Needs no credentials: the request proves itself by a signature."""

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_NOBODY: Final = Principal("service", "webhook")
"""Who a signed request is from; it may emit for nobody."""

Act = Callable[[RpcCall, Any], Message]
F = TypeVar("F", bound=Callable[..., Message])
Context = Any
"""grpc.aio's ServicerContext, which is generic only in its type stubs."""


class Methods:
    """The methods of one service. One that says not who may call it cannot be added; one that is missing is UNIMPLEMENTED."""

    def __init__(self, service: ServiceDescriptor) -> None:
        self.service = service
        self._acts: dict[str, tuple[Act, frozenset[Who] | None]] = {}

    def rpc(self, allow: frozenset[Who] | None) -> Callable[[F], F]:
        """A method of the service, named as the function is in lower case: `create_account` is CreateAccount."""

        def add(act: F) -> F:
            name = "".join(part.capitalize() for part in act.__name__.split("_"))
            assert name in self.service.methods_by_name, f"{self.service.full_name} has no method {name}"
            assert name not in self._acts, f"{name} stands twice"
            self._acts[name] = (act, allow)
            return act

        return add

    def allowed(self) -> dict[str, frozenset[Who] | None]:
        """Who may call which method; None: it is signed."""
        return {name: allow for name, (_, allow) in self._acts.items()}

    def handler(self, door: Door) -> grpc.GenericRpcHandler:
        """What a server serves."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                door.behind(method, *self._acts[name]),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=GetMessageClass(method.output_type).SerializeToString,
            )
            for name, method in self.service.methods_by_name.items()
            if name in self._acts
        }
        return grpc.method_handlers_generic_handler(self.service.full_name, handlers)


class Door:
    """Lets calls in, runs them in threads, and answers whatever happens inside. For one event loop."""

    def __init__(self, parts: Parts, gate: Gate, threads: Executor) -> None:
        self._parts = parts
        self._gate = gate
        self._threads = threads

    def behind(self, method: MethodDescriptor, act: Act, allow: frozenset[Who] | None) -> Callable[..., Awaitable[Message]]:
        """The method as a server calls it."""
        name = f"/{method.containing_service.full_name}/{method.name}"

        async def answer(request: Message, context: Context) -> Message:
            started = time.perf_counter()
            metadata = list(context.invocation_metadata() or ())
            request_id = _request_id_of(metadata)
            refused: Answer | None
            with bound(request_id=request_id):
                try:
                    result = await self._run(name, act, allow, request, context, metadata, request_id)
                except Late:
                    late = "The deadline has passed; nothing was changed after it. Send it again with more time."
                    refused = Answer(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded", late, request_id)
                except Exception as error:
                    refused = answer_of(error, request_id)
                    if refused is None:
                        # The last resort: a defect of ours must still be an answer with an id to ask about.
                        logger.exception("call failed", extra={"method": name})
                        told = "This is a defect of the server; its log has the cause under this requestId."
                        refused = Answer(grpc.StatusCode.INTERNAL, "internal", told, request_id)
                else:
                    _note(name, grpc.StatusCode.OK, started)
                    context.set_trailing_metadata((("x-request-id", request_id),))
                    return result
                logger.info("call refused", extra={"method": name, "code": refused.reason})
                _note(name, refused.code, started)
                trailing = (("x-request-id", request_id), *refused.trailing_metadata)
                return await context.abort(refused.code, refused.message, trailing)  # type: ignore[no-any-return]

        return answer

    async def _run(
        self,
        name: str,
        act: Act,
        allow: frozenset[Who] | None,
        request: Message,
        context: Context,
        metadata: Sequence[tuple[str, str | bytes]],
        request_id: str,
    ) -> Message:
        principal = _NOBODY
        if allow is not None:
            principal = await self._gate.principal([(key.encode(), _bytes(value)) for key, value in metadata])
            require_role(principal, allow)
        left_s = context.time_remaining()
        call = RpcCall(
            principal,
            request_id,
            self._parts,
            idempotency_key_of(dict(metadata)),
            fingerprint_of(name, request),
            time.monotonic() + (LONGEST_S if left_s is None else min(left_s, LONGEST_S)),
        )
        # In the context of this task, so that lines that the method logs carry the request's id.
        within = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, within.run, _acted, act, call, request)


def _acted(act: Act, call: RpcCall, request: Message) -> Message:
    call.left_s()  # it may have waited for a thread
    return act(call, request)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _request_id_of(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _SANE_ID.fullmatch(value):
            return value
    return os.urandom(16).hex()


def _note(method: str, code: grpc.StatusCode, started: float) -> None:
    metrics.GRPC_CALLS.labels(method, code.name).inc()
    metrics.GRPC_SECONDS.labels(method).observe(time.perf_counter() - started)
