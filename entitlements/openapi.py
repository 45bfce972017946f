"""The OpenAPI document, from the structs that are parsed and written and one table of routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from entitlements import models, reservation_models

REFERENCE: Final = "#/components/schemas/{name}"
_REQUEST_ID = {"X-Request-Id": {"description": "Yours, if it was sane, else a new one.", "schema": {"type": "string"}}}

WHY: Final = {
    400: "The request breaks a rule; `code` says which.",
    401: "No credentials, or wrong ones.",
    403: "The secret may not emit for this source service.",
    404: "No such tenant, or no such reservation, in your scope.",
    408: "The body did not arrive in time.",
    409: "The limit does not hold it, or the reservation is no longer what it would have to be; `code` says which.",
    413: "The body or the event is too large.",
    415: "The body is encoded.",
    422: "The tenant or usage type does not exist, or the Idempotency-Key was used with another body.",
    500: "A defect of the server.",
    503: "A dependency is away and nothing was done; see Retry-After.",
}


@dataclass(frozen=True)
class Parameter:
    """One path or query parameter."""

    name: str
    where: Literal["path", "query", "header"]
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """What a route takes and says."""

    method: Literal["get", "post"]
    path: str
    summary: str
    answers: dict[int, tuple[type[msgspec.Struct] | None, str]]
    """Status -> (body, when). None: plain text."""
    problems: tuple[int, ...] = ()
    body: type[msgspec.Struct] | None = None
    bare_items: type[msgspec.Struct] | None = None
    """The body may also be a bare array of these."""
    parameters: tuple[Parameter, ...] = ()
    open: bool = False
    """Needs no credentials."""
    example: dict[str, Any] = field(default_factory=dict)


_WAIT = (
    Parameter("wait", "query", "Answer when the counters hold the event.", {"type": "string", "enum": ["counted"]}),
    Parameter("timeout", "query", "How long to wait for that, such as 500ms or 2s.", {"type": "string", "default": "2s"}),
)
_MONTH = "^[0-9]{4}-[0-9]{2}$"
_PAGE = {"minimum": 1, "maximum": 1_000}
_POST_PROBLEMS = (400, 401, 404, 408, 413, 415, 500, 503)
_EVENT = {
    "tenantId": "tnt_123",
    "sourceService": "analysis-worker",
    "sourceEntityId": "job_abc_123",
    "usageType": "PHOTO_ANALYSIS_DEEP",
    "quantity": 1,
}
_CHECK = {"tenantId": "tnt_123", "usageType": "PHOTO_ANALYSIS_DEEP", "quantity": 1}

_RESERVATION = Parameter("reservationId", "path", "As reserving answered it.", {"type": "string", "format": "uuid"})
_REQUEST_KEY = Parameter("Idempotency-Key", "header", "Asked again with it, the first answer stands.", {"type": "string"})

OPERATIONS: Final = (
    Operation(
        "post",
        "/v1/billing/entitlements/check",
        "May this tenant use this much more?",
        {200: (models.CheckAnswer, "Decided. An unknown tenant is denied with reason unknown_tenant.")},
        _POST_PROBLEMS,
        models.CheckRequest,
        example=_CHECK,
    ),
    Operation(
        "post",
        "/v1/billing/entitlements/check/batch",
        "Up to 100 checks of one moment",
        {200: (models.CheckBatchAnswer, "Decided, each.")},
        _POST_PROBLEMS,
        models.CheckBatchRequest,
        models.CheckRequest,
        example={"checks": [_CHECK]},
    ),
    Operation(
        "post",
        "/v1/billing/usage",
        "Record usage",
        {202: (models.UsageAnswer, "Taken: acked by the log, or spooled on this server's disk.")},
        (*_POST_PROBLEMS, 403, 422),
        models.UsageEvent,
        parameters=_WAIT,
        example=_EVENT,
    ),
    Operation(
        "post",
        "/v1/billing/usage/batch",
        "Record up to 1,000 events, each with its own result",
        {202: (models.UsageBatchAnswer, "All taken."), 207: (models.UsageBatchAnswer, "Some or all refused; see each.")},
        _POST_PROBLEMS,
        models.UsageBatchRequest,
        models.UsageEvent,
        parameters=_WAIT,
        example={"events": [_EVENT]},
    ),
    Operation(
        "get",
        "/v1/billing/summaries/{tenantId}",
        "How a tenant's usage stands, by usage type",
        {200: (models.SummaryAnswer, "A page of usage types in order of their names.")},
        (400, 401, 404, 500, 503),
        parameters=(
            Parameter("tenantId", "path", "The tenant.", {"type": "string"}),
            Parameter("period", "query", "A month; the running one by default.", {"type": "string", "pattern": _MONTH}),
            Parameter("limit", "query", "Usage types a page.", {"type": "integer", "default": 100, **_PAGE}),
            Parameter("cursor", "query", "`nextCursor` of the page before.", {"type": "string"}),
        ),
    ),
    Operation(
        "post",
        "/v1/billing/reservations",
        "Hold a quantity while work runs",
        {201: (reservation_models.ReserveAnswer, "Held until it is settled, released, or its time is over.")},
        (*_POST_PROBLEMS, 403, 409, 422),
        reservation_models.ReserveRequest,
        parameters=(_REQUEST_KEY,),
        example={**_EVENT, "ttlSeconds": 300},
    ),
    Operation(
        "post",
        "/v1/billing/reservations/{reservationId}/settle",
        "Say what was used: the event is published, and held until it is counted",
        {200: (reservation_models.SettleAnswer, "Promised; the same body again gets the same answer.")},
        (*_POST_PROBLEMS, 403, 409),
        reservation_models.SettleRequest,
        parameters=(_RESERVATION,),
        example={"quantity": 1},
    ),
    Operation(
        "post",
        "/v1/billing/reservations/{reservationId}/release",
        "Give back what is held",
        {200: (reservation_models.ReleaseAnswer, "Given back, now or before.")},
        (401, 403, 404, 409, 500, 503),
        parameters=(_RESERVATION,),
    ),
    Operation(
        "get",
        "/v1/billing/reservations/{reservationId}",
        "How a reservation stands",
        {200: (reservation_models.ReservationAnswer, "As it stands now.")},
        (401, 404, 500, 503),
        parameters=(_RESERVATION,),
    ),
    Operation("get", "/health", "The process is alive", {200: (models.Health, "It is.")}, open=True),
    Operation(
        "get",
        "/ready",
        "Whether requests can be served",
        {200: (models.Ready, "They can."), 503: (models.Ready, "A dependency is not ready; `checks` says which and why.")},
        open=True,
    ),
    Operation("get", "/metrics", "Metrics, in Prometheus' text format", {200: (None, "Now.")}, open=True),
)


def document(version: str) -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    named = {**vars(models), **vars(reservation_models)}.values()
    structs = [value for value in named if isinstance(value, type) and issubclass(value, msgspec.Struct)]
    _, components = msgspec.json.schema_components(
        [struct for struct in structs if struct is not msgspec.Struct], ref_template=REFERENCE
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Meterline entitlements",
            "version": version,
            "description": "May a tenant use this much more, what was used, and how it stands. "
            "Quantities are exact: parse JSON numbers as decimals.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"serviceSecret": {"type": "apiKey", "in": "header", "name": "X-Service-Secret"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{operation.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "responses": {str(status): _answer(*answer) for status, answer in sorted(operation.answers.items())},
    }
    for status in operation.problems:
        shown["responses"][str(status)] = {
            "description": f"{HTTPStatus(status).phrase}. {WHY[status]}",
            "headers": _REQUEST_ID,
            "content": {"application/problem+json": {"schema": _reference(models.ProblemDocument)}},
        }
    if operation.parameters:
        shown["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.where,
                "required": parameter.where == "path",
                "description": parameter.description,
                "schema": parameter.schema,
            }
            for parameter in operation.parameters
        ]
    if operation.body is not None:
        schema: dict[str, Any] = _reference(operation.body)
        if operation.bare_items is not None:
            schema = {"oneOf": [schema, {"type": "array", "items": _reference(operation.bare_items)}]}
        content = {"application/json": {"schema": schema, "example": operation.example}}
        shown["requestBody"] = {"required": True, "content": content}
    shown["security"] = [] if operation.open else [{"serviceSecret": []}]
    return shown


def _answer(struct: type[msgspec.Struct] | None, when: str) -> dict[str, Any]:
    if struct is None:
        content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": _reference(struct)}}
    return {"description": when, "headers": _REQUEST_ID, "content": content}


def _reference(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(name=struct.__name__)}
