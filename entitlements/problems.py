"""Errors as RFC 9457 has them: one exception to raise anywhere, one document to answer with."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from access.principals import AccessRefused
from entitlements.models import ENCODER, ProblemDocument
from meterline_schemas.reasons import Reason

TYPE_PREFIX = "urn:meterline:problem:"


class Problem(Exception):
    """A request ends with this. The detail says what was found and what to do about it; no secret stands in it."""

    media_type = b"application/problem+json"

    def __init__(self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    @classmethod
    def of_reason(cls, reason: Reason, found: str) -> Problem:
        """A body that breaks a rule of the event: the same code as a record in the log would get."""
        return cls(413 if reason is Reason.TOO_LARGE else 400, reason.value, f"{found}. {reason.remedy}")

    @classmethod
    def try_again(cls, code: str, detail: str, after_s: int = 1) -> Problem:
        """503: the request was right and nothing of it was done."""
        return cls(503, code, detail, headers={"Retry-After": str(after_s)})

    @classmethod
    def of_access(cls, refused: AccessRefused) -> Problem:
        headers: dict[str, str] = {}
        if refused.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="meterline", ServiceSecret realm="meterline"'
        elif refused.status in (429, 503):
            headers["Retry-After"] = str(refused.retry_after_s)
        return cls(refused.status, refused.code, str(refused), headers=headers)

    def document(self, request_id: str) -> bytes:
        """The body of the answer."""
        title = HTTPStatus(self.status).phrase
        return ENCODER.encode(ProblemDocument(TYPE_PREFIX + self.code, title, self.status, self.code, self.detail, request_id))
