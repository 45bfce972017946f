"""`wait=counted` of events that were published: until the counters hold them, also where the log went over to a new epoch.

An event that was acknowledged past its epoch's end is forwarded, but nobody knows to which position. So it is published
again: its key is its identity, and once the fence has passed the second record the first of the two is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from entitlements.counted import Fences
from entitlements.log_epochs import LogEpochs
from entitlements.models import Position
from entitlements.sink import SinkAway, UsageSink
from entitlements.store import StoreAway
from meterline_schemas.draft import EncodedEvent

LOOK_AGAIN_S = 0.25
"""How long the counters are waited for before it is looked whether the log has gone over."""


class Waiting:
    """For one event loop. Raises nothing: what cannot be known in time is not counted yet."""

    def __init__(self, fences: Fences, epochs: LogEpochs, sink: UsageSink) -> None:
        self._fences, self._epochs, self._sink = fences, epochs, sink

    async def counted(
        self, published: Sequence[tuple[EncodedEvent, Position]], traceparent: str, timeout_s: float
    ) -> list[tuple[Position, bool]]:
        """Of each its position, the second one where it had to be published again, and whether the counters hold it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        positions = [position for _, position in published]
        while True:
            began, slice_s = loop.time(), max(0.0, min(LOOK_AGAIN_S, deadline - loop.time()))
            counted = await self._fences.counted(positions, slice_s)
            # Answered before the time was over: there is nobody left to wait, or there are too many who do.
            if all(counted) or loop.time() >= deadline or loop.time() - began < slice_s / 2:
                return list(zip(positions, counted, strict=True))
            with suppress(StoreAway, SinkAway, TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._epochs.look()
                    late = [number for number, position in enumerate(positions) if self._epochs.is_late(position)]
                    if late:
                        again = await self._sink.publish([published[number][0] for number in late], traceparent)
                        for number, answer in zip(late, again, strict=True):
                            if isinstance(answer, Position):
                                positions[number] = answer
