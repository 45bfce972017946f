"""Reading a request's fields: every problem is collected, named by its field, and told at once."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from control_plane.refusals import Refusal

ID_BYTES_MAX: Final = 256
PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 100

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")
_CURRENCY: Final = re.compile(r"[a-z]{3}")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_QUANTITY: Final = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?")


class Fields:
    """The fields of one request. After reading them all, `check` refuses what is wrong."""

    def __init__(self, request: Message) -> None:
        self._request: Any = request
        self._problems: list[dict[str, str]] = []

    def wrong(self, field: str, problem: str) -> None:
        """Notes a problem."""
        self._problems.append({"field": field, "problem": problem})

    def check(self) -> None:
        """Raises Refusal for all that was noted. Never shows a value: a secret could stand there."""
        if self._problems:
            told = "; ".join(f"{one['field']}: {one['problem']}" for one in self._problems[:5])
            raise Refusal("invalid", "invalid_request", f"The request is not valid: {told}.", {"fields": self._problems})

    def identifier(self, field: str, *, required: bool = True) -> str:
        """An id: 1 to 256 bytes without control characters; empty where it is not required."""
        value = str(getattr(self._request, field))
        if not value and required:
            self.wrong(field, "is required")
        elif len(value.encode()) > ID_BYTES_MAX or _CONTROL.search(value):
            self.wrong(field, f"want at most {ID_BYTES_MAX} bytes without control characters")
        return value

    def text(self, field: str, most: int, *, required: bool = False) -> str:
        """Printable text."""
        value = str(getattr(self._request, field)).strip()
        if not value and required:
            self.wrong(field, "is required")
        elif len(value) > most or _CONTROL.search(value):
            self.wrong(field, f"want at most {most} printable characters")
        return value

    def email(self, field: str) -> str | None:
        value = str(getattr(self._request, field)).strip()
        if value and not _EMAIL.fullmatch(value):
            self.wrong(field, "want an address such as billing@example.com")
        return value or None

    def currency(self, field: str, *, required: bool = False) -> str | None:
        value = str(getattr(self._request, field))
        if (required or value) and not _CURRENCY.fullmatch(value):
            self.wrong(field, "want three lower-case letters, such as usd")
        return value or None

    def whole(self, field: str, least: int, most: int, default: int) -> int:
        """A whole number; 0 stands for the default."""
        value = int(getattr(self._request, field)) or default
        if not least <= value <= most:
            self.wrong(field, f"want {least} to {most}")
            return default
        return value

    def quantity(self, field: str) -> Decimal:
        value = str(getattr(self._request, field))
        if not _QUANTITY.fullmatch(value):
            self.wrong(field, "want a decimal number of at most 12 digits and 6 decimals, such as 1.5")
            return Decimal(0)
        return Decimal(value)

    def day(self, field: str) -> date:
        value = str(getattr(self._request, field))
        try:
            if _DAY.fullmatch(value):
                return date.fromisoformat(value)
        except ValueError:
            pass
        self.wrong(field, "want a day such as 2026-11-01")
        return date.min

    def instant(self, field: str) -> datetime | None:
        """An instant; None where it is unset."""
        if not self._request.HasField(field):
            return None
        try:
            found: datetime = getattr(self._request, field).ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.wrong(field, "want an instant of the years 1 to 9999")
            return None
        return found

    def mask(self, field: str, known: frozenset[str]) -> frozenset[str]:
        """The paths of an update mask: at least one, each a known field; `*` stands for all of them."""
        mask = getattr(self._request, field)
        assert isinstance(mask, FieldMask)
        paths = frozenset(mask.paths)
        if paths == {"*"}:
            return known
        if not paths or paths - known:
            self.wrong(field, f"want some of {', '.join(sorted(known))}")
        return paths & known

    def page(self) -> tuple[int, str]:
        """How many are wanted, and the token of the page."""
        return self.whole("page_size", 1, PAGE_MAX, PAGE_DEFAULT), str(self._request.page_token)


def timestamp(at: datetime | None) -> Timestamp | None:
    """None stays unset."""
    if at is None:
        return None
    written = Timestamp()
    written.FromDatetime(at)
    return written


def decimal_text(value: Decimal) -> str:
    """The shortest text that is exactly this number."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
