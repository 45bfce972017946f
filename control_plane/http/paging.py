"""Paging by cursor: where the last page ended, in a form that clients pass back and do not look into."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

import msgspec
from fastapi import Query

from control_plane.refusals import Refusal

LIMIT_MAX: Final = 200
CURSOR_MAX: Final = 1_024

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Most items of this page.")]
Cursor = Annotated[str, Query(max_length=CURSOR_MAX, description="`nextCursor` of the page before; empty for the first page.")]


def cursor_of(*after: str | int) -> str:
    """The cursor behind an item with these sort keys."""
    return base64.urlsafe_b64encode(msgspec.json.encode(after)).decode("ascii").rstrip("=")


def after_cursor(cursor: str, *types: type) -> tuple[str | int, ...] | None:
    """The sort keys in a cursor, of these types; None for the first page. Raises Refusal for what was no cursor of this list."""
    if not cursor:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        keys: list[str | int] = msgspec.json.decode(raw, type=list[str | int])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        keys = []
    if [type(key) for key in keys] != list(types):
        raise bad_cursor()
    return tuple(keys)


def bad_cursor() -> Refusal:
    """For what was no cursor of the list."""
    return Refusal("invalid", "bad_cursor", "This is no cursor of this list; send the last page's nextCursor, or none.")
