"""A refusal as a canonical status with details: google.rpc.ErrorInfo always, and what else helps a program go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from access.principals import AccessRefused
from control_plane.refusals import Kind, Refusal

DOMAIN: Final = "meterline"
DETAILS_KEY: Final = "grpc-status-details-bin"
MESSAGE_CHARACTERS_MAX: Final = 500
"""Of the text, and of each value in the details: metadata is limited to some kilobytes."""
DETAILS_MAX: Final = 10

CODE_OF: Final[Mapping[Kind, grpc.StatusCode]] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "payment_required": grpc.StatusCode.FAILED_PRECONDITION,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "conflict": grpc.StatusCode.ALREADY_EXISTS,
    "precondition": grpc.StatusCode.FAILED_PRECONDITION,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unprocessable": grpc.StatusCode.INVALID_ARGUMENT,
    "exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
}
_OF_ACCESS: Final[Mapping[int, grpc.StatusCode]] = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


class Answer:
    """How a call ends that has no result."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        request_id: str,
        told: Mapping[str, Any] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """`reason`: the code for programs, as over HTTP; on this surface it is written in capitals."""
        self.code = code
        self.reason = reason.upper()
        self.message = message[:MESSAGE_CHARACTERS_MAX]
        told = told or {}
        plain = {name: str(value)[:MESSAGE_CHARACTERS_MAX] for name, value in told.items() if isinstance(value, str | int)}
        metadata = {"requestId": request_id, **dict(list(plain.items())[:DETAILS_MAX])}
        self._details: list[Message] = [ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=metadata)]
        fields = told.get("fields")
        if isinstance(fields, list):
            violations = [
                BadRequest.FieldViolation(field=str(one["field"]), description=str(one["problem"])[:MESSAGE_CHARACTERS_MAX])
                for one in fields[:DETAILS_MAX]
            ]
            self._details.append(BadRequest(field_violations=violations))
        if retry_after_s is not None:
            self._details.append(RetryInfo(retry_delay=Duration(seconds=retry_after_s)))

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Where clients look for the details."""
        status = Status(code=self.code.value[0], message=self.message)
        for detail in self._details:
            packed = Packed()
            packed.Pack(detail)
            status.details.append(packed)
        return ((DETAILS_KEY, status.SerializeToString()),)


def answer_of(error: Exception, request_id: str) -> Answer | None:
    """How an exception is answered; None for one that nobody foresaw."""
    match error:
        case Refusal():
            code = CODE_OF[error.kind]
            if error.kind == "conflict" and error.retry_after_s is not None:
                code = grpc.StatusCode.ABORTED  # a conflict of times, not of things
            return Answer(code, error.code, error.message, request_id, error.details, error.retry_after_s)
        case AccessRefused():
            after_s = error.retry_after_s if error.status in (429, 503) else None
            return Answer(_OF_ACCESS[error.status], error.code, str(error), request_id, retry_after_s=after_s)
        case _:
            return None
