"""The OpenAPI document, from the structs that are parsed and written and one table of routes."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from access.principals import ROLES_OF, Kind, Who
from entitlements import formats, models, reservation_models
from entitlements.permissions import PERMISSIONS

REFERENCE: Final = "#/components/schemas/{name}"
_REQUEST_ID = {"X-Request-Id": {"description": "Yours, if it was sane, else a new one.", "schema": {"type": "string"}}}

_HEADERS: Final = {
    401: {"WWW-Authenticate": {"description": "What may be sent.", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}},
}
_GUARDED: Final = (401, 403, 429, 500, 503)
"""What every route that wants credentials may answer."""
_SCHEME_OF: Final[dict[Kind, str]] = {"service": "serviceSecret", "key": "apiKey", "user": "userToken", "member": "clerkSession"}
_SCHEMES: Final = {
    "serviceSecret": {"type": "apiKey", "in": "header", "name": "X-Service-Secret"},
    "apiKey": {"type": "http", "scheme": "bearer", "description": "An organization's key, sk_..."},
    "userToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "HS256, from the authentication service.",
    },
    "clerkSession": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "RS256, from Clerk."},
}

WHY: Final = {
    400: "The request breaks a rule; `code` says which.",
    401: "No credentials, or wrong ones.",
    403: "The credentials belong to no tenant, or may not do this, or not for this source service; `code` says which.",
    404: "No such tenant, or no such reservation, in your scope.",
    408: "The body did not arrive in time.",
    409: "The limit does not hold it, or the reservation is no longer what it would have to be; `code` says which.",
    413: "The body or the event is too large.",
    415: "The body is encoded, or of a form that belongs to another route.",
    422: "The tenant or usage type does not exist, or the Idempotency-Key was used with another body.",
    429: "Too many requests of this principal; see Retry-After.",
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
    required: bool = False
    """Those of the path always are."""


Body = type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | None


@dataclass(frozen=True)
class Operation:
    """What a route takes and says."""

    method: Literal["get", "post"]
    path: str
    summary: str
    answers: dict[int, tuple[Body, str]]
    """Status -> (body, when). None: plain text; several: one of them."""
    problems: tuple[int, ...] = ()
    body: type[msgspec.Struct] | None = None
    bare_items: type[msgspec.Struct] | None = None
    """The body may also be a bare array of these."""
    parameters: tuple[Parameter, ...] = ()
    forms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other media types of the body, and their schemas."""
    example: dict[str, Any] = field(default_factory=dict)


_WAIT = (
    Parameter("wait", "query", "Answer when the counters hold the event.", {"type": "string", "enum": ["counted"]}),
    Parameter("timeout", "query", "How long to wait for that, such as 500ms or 2s.", {"type": "string", "default": "2s"}),
)
_DAY = {"type": "string", "format": "date"}
_TEXT = {"type": "string", "minLength": 1}
_CLOUD_EVENT = {
    "type": "object",
    "required": ["specversion", "id", "source", "type", "subject", "data"],
    "properties": {
        "specversion": {"const": "1.0"},
        "source": {**_TEXT, "description": "sourceService"},
        "id": {**_TEXT, "description": "sourceEntityId"},
        "type": {**_TEXT, "description": "usageType"},
        "subject": {**_TEXT, "description": "tenantId"},
        "time": {"type": "string", "format": "date-time", "description": "occurredAt"},
        "datacontenttype": {"type": "string", "description": "JSON, or absent"},
        "data": {
            "type": "object",
            "required": ["quantity"],
            "additionalProperties": False,
            "properties": {"quantity": {}, "metadata": {"type": "object"}, "kind": {}, "corrects": {}},
        },
    },
}
_PERIODS = "^(current|previous|[0-9]{4}-[0-9]{2})$"
_PERIOD = "current: each limit's running period; previous: the one before; 2026-10: what lies or starts in that month."
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
        forms={formats.CLOUDEVENT: _CLOUD_EVENT},
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
        forms={
            formats.NDJSON: {"type": "string", "description": "An event a line."},
            formats.CLOUDEVENTS: {"type": "array", "items": _CLOUD_EVENT, "minItems": 1, "maxItems": models.EVENTS_MAX},
        },
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
            Parameter("period", "query", _PERIOD, {"type": "string", "pattern": _PERIODS, "default": "current"}),
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
    Operation(
        "get",
        "/v1/billing/usage/{tenantId}",
        "What was used over time, and the events behind it",
        {200: ((models.SeriesAnswer, models.EventsAnswer), "A page, by `view`.")},
        (400, 401, 404, 429, 500, 503),
        parameters=(
            Parameter("tenantId", "path", "The tenant.", {"type": "string"}),
            Parameter("view", "query", "Sums over time, or the events.", {"enum": ["series", "events"], "default": "series"}),
            Parameter("granularity", "query", "Of a series.", {"enum": ["day", "hour"], "default": "day"}),
            Parameter("from", "query", "The first day, in UTC; the first of this month by default.", _DAY),
            Parameter("to", "query", "The first day after it; tomorrow by default. 400 days at most, by hour 35.", _DAY),
            Parameter("usageType", "query", "This one only.", {"type": "string"}),
            Parameter("limit", "query", "Lines a page.", {"type": "integer", "default": 100, **_PAGE}),
            Parameter("cursor", "query", "`nextCursor` of the page before.", {"type": "string"}),
        ),
    ),
    Operation(
        "get",
        "/v1/billing/explain",
        "Where an event is: position, verdict, row, delta, counter, exports",
        {200: (models.Explained, "What is known; `known` false where nothing is.")},
        (400, 401, 403, 429, 500, 503),
        parameters=tuple(
            Parameter(name, "query", "As the sender wrote it.", {"type": "string"}, required=True)
            for name in ("sourceService", "sourceEntityId", "usageType")
        ),
    ),
    Operation("get", "/health", "The process is alive", {200: (models.Health, "It is.")}),
    Operation(
        "get",
        "/ready",
        "Whether requests can be served",
        {200: (models.Ready, "They can."), 503: (models.Ready, "A dependency is not ready; `checks` says which and why.")},
    ),
    Operation("get", "/metrics", "Metrics, in Prometheus' text format", {200: (None, "Now.")}),
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
            "securitySchemes": _SCHEMES,
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{operation.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "responses": {str(status): _answer(*answer) for status, answer in sorted(operation.answers.items())},
    }
    allowed = _allowed(operation)
    for status in sorted({*operation.problems, *(_GUARDED if allowed is not None else ())}):
        shown["responses"][str(status)] = {
            "description": f"{HTTPStatus(status).phrase}. {WHY[status]}",
            "headers": _REQUEST_ID | _HEADERS.get(status, {}),
            "content": {"application/problem+json": {"schema": _reference(models.ProblemDocument)}},
        }
    if operation.parameters:
        shown["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.where,
                "required": parameter.required or parameter.where == "path",
                "description": parameter.description,
                "schema": parameter.schema,
            }
            for parameter in operation.parameters
        ]
    if operation.body is not None:
        schema: dict[str, Any] = _reference(operation.body)
        if operation.bare_items is not None:
            schema = {"oneOf": [schema, {"type": "array", "items": _reference(operation.bare_items)}]}
        content = {formats.JSON: {"schema": schema, "example": operation.example}}
        content |= {form: {"schema": of_form} for form, of_form in operation.forms.items()}
        shown["requestBody"] = {"required": True, "content": content}
    shown["security"] = [{_SCHEME_OF[kind]: []} for kind, roles in ROLES_OF.items() if roles & (allowed or frozenset())]
    return shown


def _allowed(operation: Operation) -> frozenset[Who] | None:
    """By the table of permissions, whose paths say where an id may hold a slash."""
    return next(
        who
        for (method, path), who in PERMISSIONS.items()
        if (method, path.replace(":path}", "}")) == (operation.method.upper(), operation.path)
    )


def _answer(body: Body, when: str) -> dict[str, Any]:
    content: dict[str, Any]
    if body is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
    elif isinstance(body, tuple):
        content = {formats.JSON: {"schema": {"oneOf": [_reference(struct) for struct in body]}}}
    else:
        content = {formats.JSON: {"schema": _reference(body)}}
    return {"description": when, "headers": _REQUEST_ID, "content": content}


def _reference(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(name=struct.__name__)}
