"""Request bodies with their numbers exact: a float never stands between what was sent and what is kept."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final, NoReturn

from starlette.requests import Request

from control_plane.refusals import Refusal
from meterline_schemas.nesting import nesting_of

NESTING_MAX: Final = 32
NUMBER_CHARACTERS_MAX: Final = 64


class ExactRequest(Request):
    """A request whose `json()` reads decimals as Decimal, and takes strict JSON in UTF-8 only, of bounded depth."""

    async def json(self) -> Any:
        body = await self.body()
        if nesting_of(body) > NESTING_MAX:
            raise Refusal("invalid", "too_deep", f"The body is nested deeper than {NESTING_MAX}; send what /docs shows.")
        try:
            return json.loads(body.decode(), parse_float=_decimal, parse_int=_integer, parse_constant=_no_number)
        except UnicodeDecodeError:
            raise Refusal("invalid", "not_utf8", "The body is not UTF-8; send JSON in UTF-8.") from None
        except ValueError as error:
            found = str(error)[:200]
            raise Refusal("invalid", "malformed_json", f"The body is not JSON: {found}. Send one JSON object.") from None


def _decimal(text: str) -> Decimal:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise ValueError(f"a number of more than {NUMBER_CHARACTERS_MAX} characters")
    return Decimal(text)


def _integer(text: str) -> int:
    if len(text) > NUMBER_CHARACTERS_MAX:
        raise ValueError(f"a number of more than {NUMBER_CHARACTERS_MAX} characters")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
