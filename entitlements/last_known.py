"""How tenants stood when they were last looked up: what a check is answered from while Postgres is away, and never else.

A memory for one process, bounded, lost at its end. Each process remembers what it looked up itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from entitlements.standings import Ask, Found

REMEMBERED_MAX: Final = 50_000
"""Most (tenant, usage type) pairs; what was looked up longest ago goes first. About 40 MB when full."""


class Remembered(NamedTuple):
    """One look-up."""

    found: Found
    as_of: str | None
    at: float

    def age_s(self, now: float) -> int:
        """Whole seconds since."""
        return int(now - self.at)


class LastKnown:
    """The newest look-up of each ask. For one event loop."""

    def __init__(self, age_max_s: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._age_max_s = age_max_s
        self.now = monotonic
        self._kept: dict[Ask, Remembered] = {}

    def keep(self, ask: Ask, found: Found, as_of: str | None) -> None:
        """Remembers it in place of what was remembered before."""
        self._kept.pop(ask, None)
        self._kept[ask] = Remembered(found, as_of, self.now())
        if len(self._kept) > REMEMBERED_MAX:
            del self._kept[next(iter(self._kept))]

    def of(self, ask: Ask) -> Remembered | None:
        """What is remembered of it, unless that is too old to be said."""
        kept = self._kept.get(ask)
        return None if kept is None or kept.age_s(self.now()) > self._age_max_s else kept
