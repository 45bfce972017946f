"""Errors in Stripe's shape: a status, a body {"error": {...}}, and the header that says whether a repeat makes sense."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What goes back: a status, a JSON document, and headers beside the ones that every answer has."""

    status: int
    body: dict[str, object]
    headers: tuple[tuple[str, str], ...] = ()


class Problem(Exception):
    """A request that Stripe would refuse. Whatever it had changed is rolled back."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.code, self.param, self.kind = message, status, code, param, kind
        self.should_retry = should_retry

    def answer(self) -> Answer:
        """The error as it goes over the wire."""
        error: dict[str, object] = {"type": self.kind, "message": self.message}
        if self.code is not None:
            error["code"] = self.code
        if self.param is not None:
            error["param"] = self.param
        headers: tuple[tuple[str, str], ...] = ()
        if self.should_retry is not None:
            headers = (("stripe-should-retry", "true" if self.should_retry else "false"),)
        return Answer(self.status, {"error": error}, headers)


def missing(param: str) -> Problem:
    """A parameter that must be there is not."""
    return Problem(f"Missing required param: {param}.", code="parameter_missing", param=param)


def unknown(param: str) -> Problem:
    """A parameter that the endpoint does not have, or that this local Stripe does not model."""
    return Problem(f"Received unknown parameter: {param}", code="parameter_unknown", param=param)


def wrong(param: str, why: str) -> Problem:
    """A parameter with a value that cannot be."""
    return Problem(f"Invalid {param}: {why}", code="parameter_invalid", param=param)


def absent(noun: str, identifier: str, param: str = "id", status: int = 404) -> Problem:
    """The object that is named does not exist."""
    return Problem(f"No such {noun}: '{identifier}'", status=status, code="resource_missing", param=param)
