"""The wire form of the events that most senders send, for readers of many at once. `event.decode` is the definition.

Narrower than the definition's own form, and nowhere wider: whoever needs kind "correction", a quantity as a number, or a
reason why something is invalid asks the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

ABSENT: Final = "\0"
"""Stands for an occurredAt that is not there: text without escapes cannot hold this character."""

NOT_PLAIN: Final = (msgspec.DecodeError, RecursionError)
"""What `read_plain` raises for a value that is not of this form."""


class PlainWire(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """An event's JSON, typed but not yet judged."""

    tenant_id: str
    source_service: str
    source_entity_id: str
    usage_type: str
    quantity: str
    occurred_at: str = ABSENT
    kind: Literal["usage"] = "usage"
    metadata: msgspec.Raw = msgspec.Raw()


read_plain: Final[Callable[[bytes], PlainWire]] = msgspec.json.Decoder(PlainWire).decode
