"""The envelope of every answer below /api: `{"status":"success","data":...}`, with exact numbers, or the error's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
from fastapi import Response
from pydantic import BaseModel

from access.principals import AccessRefused
from control_plane.refusals import Kind, Refusal
from runtime.http_edge import ANSWER_WITHIN_S, Defect, Late

STATUS_OF: Final[Mapping[Kind, int]] = {
    "invalid": 400,
    "unauthenticated": 401,
    "payment_required": 402,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "precondition": 412,
    "too_large": 413,
    "unprocessable": 422,
    "exhausted": 429,
    "unavailable": 503,
}

_ENCODER = msgspec.json.Encoder(decimal_format="number")
T = TypeVar("T")


class Success(BaseModel, Generic[T]):
    """An answer, for the document; answers themselves are encoded without it."""

    status: Literal["success"]
    data: T


class PageOf(BaseModel):
    """Where a list goes on."""

    nextCursor: str | None
    limit: int


class Listed(BaseModel, Generic[T]):
    """A page of a list, for the document."""

    status: Literal["success"]
    data: list[T]
    page: PageOf


class Answer(Response):
    """An encoded answer."""

    media_type = "application/json"


def success(data: BaseModel | Mapping[str, Any], status: int = 200) -> Answer:
    """One thing."""
    return Answer(_ENCODER.encode({"status": "success", "data": _plain(data)}), status)


def listed(items: Sequence[BaseModel | Mapping[str, Any]], next_cursor: str | None, limit: int) -> Answer:
    """A page of a list."""
    page = {"nextCursor": next_cursor, "limit": limit}
    return Answer(_ENCODER.encode({"status": "success", "data": [_plain(item) for item in items], "page": page}))


def _plain(data: BaseModel | Mapping[str, Any]) -> Mapping[str, Any]:
    return data.model_dump(by_alias=True) if isinstance(data, BaseModel) else data


class Refused:
    """A refusal as an answer of this surface."""

    media_type = b"application/json"

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.status = status
        self.code = code
        self.headers = headers
        self._message = message
        self._details = details

    def document(self, request_id: str) -> bytes:
        error = {"code": self.code, "message": self._message, "details": self._details, "requestId": request_id}
        return _ENCODER.encode({"status": "error", "error": error})


def refuses(error: Exception) -> Refused | None:
    """How an exception is answered; None for one that nobody foresaw."""
    match error:
        case Refusal():
            wait = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
            return Refused(STATUS_OF[error.kind], error.code, error.message, error.details, wait)
        case AccessRefused():
            headers = {"WWW-Authenticate": 'Bearer realm="meterline", ServiceSecret realm="meterline"'}
            if error.status in (429, 503):
                headers = {"Retry-After": str(error.retry_after_s)}
            return Refused(error.status, error.code, str(error), {}, headers if error.status in (401, 429, 503) else {})
        case Late():
            told = f"No answer within {ANSWER_WITHIN_S:.0f} s. Whether it was done is not known; send the same again."
            return Refused(503, "timeout", told, {}, {"Retry-After": "1"})
        case Defect():
            return Refused(500, "internal", "This is a defect of the server; its log has the cause under this requestId.", {}, {})
        case _:
            return None
