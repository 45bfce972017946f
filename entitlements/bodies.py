"""Request bodies: read within a limit, checked before any parser sees them, parsed with their numbers' text intact."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from entitlements.problems import Problem
from meterline_schemas.nesting import nesting_of
from meterline_schemas.quantity import MICRO, parse_quantity
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import NEWEST_RULES, RULES
from meterline_schemas.types import Micros

READ_WITHIN_S = 10.0
"""A body that takes longer to arrive is given up: a slow client must not hold a connection for ever."""
NESTING_MAX = RULES[NEWEST_RULES].nesting_max + 2
"""An event's own limit, and the two levels of a batch round it."""

_ID_BYTES_MAX = RULES[NEWEST_RULES].id_bytes_max
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_TEXT = msgspec.json.Decoder(str)
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_T = TypeVar("_T", bound=msgspec.Struct)


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body. Raises Problem 413 as soon as it is known to be too large, 408 when it does not arrive, 415 if encoded."""
    for name, value in request.scope["headers"]:
        if name == b"content-encoding" and value != b"identity":
            raise Problem(415, "unsupported_encoding", "Send the body without Content-Encoding; it is not decompressed here.")
        if name == b"content-length" and value.isdigit() and int(value) > bytes_max:
            raise _too_large(bytes_max)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "disconnected", "The client went away before the body was complete.")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > bytes_max:
                    raise _too_large(bytes_max)
                chunks.append(chunk)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Problem(408, "body_timeout", f"The body did not arrive within {READ_WITHIN_S:.0f} s; send it again.") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(bytes_max: int) -> Problem:
    return Problem(413, Reason.TOO_LARGE.value, f"The body is larger than {bytes_max} bytes; send less, or several batches.")


def readable(body: bytes) -> bytes:
    """The body, if a parser may see it: there, strict UTF-8, and not nested deeper than any valid one is."""
    if not body.strip():
        raise Problem(400, Reason.EMPTY.value, "The body is empty; send one JSON value.")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Problem.of_reason(Reason.NOT_UTF8, f"byte {error.start}: {error.reason}") from None
    if body.count(b"{") + body.count(b"[") > NESTING_MAX and (depth := nesting_of(body)) > NESTING_MAX:
        raise Problem.of_reason(Reason.TOO_DEEP, f"nested {depth} deep")
    return body


def parse(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    """The struct in a `readable` body. Raises Problem 400 that names the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _field_problem(str(error)) from None
    except msgspec.DecodeError as error:
        raise Problem.of_reason(Reason.MALFORMED_JSON, str(error)) from None


def parse_items(decoder: msgspec.json.Decoder[_T], field: str, items_max: int, body: bytes) -> list[bytes]:
    """The items of a batch: `{field: [...]}`, or the bare array. Raises Problem 400.

    They are cut out and not looked into: each must be `readable` before it is parsed, and none of them need be UTF-8.
    """
    if not body or body.isspace():
        raise Problem(400, Reason.EMPTY.value, "The body is empty; send one JSON value.")
    try:
        items = _ITEMS.decode(body) if body.lstrip()[:1] == b"[" else getattr(parse(decoder, body), field)
    except msgspec.DecodeError as error:
        raise Problem.of_reason(Reason.MALFORMED_JSON, str(error)) from None
    except RecursionError:
        raise Problem.of_reason(Reason.TOO_DEEP, "nested too deep to be read") from None
    if not 1 <= len(items) <= items_max:
        raise Problem(400, "bad_batch", f"{field} has {len(items)} items; send 1 to {items_max}.")
    return [bytes(item) for item in items]


def _field_problem(found: str) -> Problem:
    if found.startswith("Object missing"):
        return Problem(400, Reason.MISSING_FIELD.value, f"{found}. Send the field.")
    if found.startswith("Object contains unknown"):
        return Problem(400, Reason.UNKNOWN_FIELD.value, f"{found}. Correct its name, or leave it out.")
    return Problem(400, Reason.BAD_TYPE.value, f"{found}. Send the JSON type that /docs shows; leave an optional field out.")


def valid_name(field: str, text: str) -> str:
    """An id as the event's rules have it. Raises Problem 400."""
    if text.isascii() and text.isprintable() and 0 < len(text) <= _ID_BYTES_MAX:
        return text
    if not text or _CONTROL.search(text) or len(text.encode()) > _ID_BYTES_MAX:
        raise Problem.of_reason(Reason.BAD_ID, f"{field} is not an id")
    return text


def asked_quantity(sent: msgspec.Raw | msgspec.UnsetType) -> Micros:
    """How much is asked for: exact, zero or more, 1 when the request says nothing."""
    if sent is msgspec.UNSET:
        return Micros(MICRO)
    raw = bytes(sent)
    if raw[:1] in b"ntf[{":
        raise Problem.of_reason(Reason.BAD_TYPE, "quantity is neither a string nor a number")
    try:
        quantity = parse_quantity(_TEXT.decode(raw) if raw[:1] == b'"' else raw.decode())
    except ValueError as error:
        raise Problem.of_reason(Reason.BAD_QUANTITY, str(error)) from None
    if quantity < 0:
        remedy = "Ask for zero or more; to take usage back, record a correction."
        raise Problem(400, "negative_quantity", f"quantity is negative. {remedy}")
    return quantity
