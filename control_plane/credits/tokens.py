"""Tokens in request bodies: a number of output tokens, or counts by kind."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt

from metering.rates import Tokens

COUNT_MAX: Final = 10**9
"""Of one kind: beyond any stream that there is."""

Count = Annotated[StrictInt, Field(ge=0, le=COUNT_MAX)]


class TokenCounts(BaseModel):
    """Tokens by kind, each counted once: `cached` are not in `input`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Count = 0
    output: Count = 0
    cached: Count = 0


def _no_other(value: object) -> object:
    # Bodies are read with attributes, too: any other object would pass for one that leaves every count out.
    if isinstance(value, bool) or not isinstance(value, int | dict | TokenCounts):
        raise ValueError("want a whole number of tokens, or {input, output, cached}")
    return value


TokensGiven = Annotated[
    Count | TokenCounts, BeforeValidator(_no_other), Field(description="A number of output tokens, or {input, output, cached}.")
]


def tokens_of(given: int | TokenCounts) -> Tokens:
    """What is meant: a plain number is of output."""
    return Tokens(output=given) if isinstance(given, int) else Tokens(given.input, given.output, given.cached)
