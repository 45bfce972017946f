"""Credits that were spent, as usage events: through the outbox, in the transaction that spends them.

One credit charged is one unit of the usage type CREDITS, whatever for, so its sum over a user, a tenant or a month is the
ledger's own. What was recorded and not deducted here is of another type, and never mixes with it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from psycopg import Connection

from control_plane.refusals import Refusal
from meterline_schemas.draft import EventDraft, InvalidEvent, encode_event
from meterline_schemas.event import SCHEMA_VERSION_HEADER
from store import outbox
from store.steps import run

CHARGED: Final = "CREDITS"
"""The usage type of credits that the ledger has charged."""
REPORTED: Final = "CREDITS_REPORTED"
"""Of credits that a service reported, and the ledger did not charge."""
SCHEMA_VERSION: Final = "1"


def promise(connection: Connection[Any], draft: EventDraft, topic: str) -> None:
    """Puts the event into the outbox; it is published once the caller's transaction is committed.

    Raises Refusal for what the consumer would turn away: nothing is promised that would not be counted.
    """
    try:
        encoded = encode_event(draft, time.time_ns() // 1_000_000)
    except InvalidEvent as invalid:
        raise Refusal("invalid", invalid.reason.value, f"{invalid.detail}. {invalid.reason.remedy}") from None
    record = outbox.Record(topic, encoded.event.key, encoded.value, {SCHEMA_VERSION_HEADER: SCHEMA_VERSION})
    run(connection, outbox.add(record))
