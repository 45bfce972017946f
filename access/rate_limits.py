"""How often a principal may ask: a token bucket each.

The buckets live in this process's memory, so that a request costs no trip: with n processes behind a balancer a principal
gets up to n times the rate, and a restart fills every bucket. It keeps one caller from starving the others; it is no quota.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Final

from access.principals import AccessRefused, Kind, Principal

BURST_S: Final = 2.0
"""A bucket holds this many seconds of its rate, and one request at least."""
BUCKETS_MAX: Final = 50_000
"""Most principals remembered; who was seen longest ago goes first, and begins with a full bucket."""


class RateLimits:
    """For one event loop. A kind whose rate is 0 or missing is not limited."""

    def __init__(self, per_s: Mapping[Kind, float], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._per_s = {kind: rate for kind, rate in per_s.items() if rate > 0}
        self._monotonic = monotonic
        self._buckets: dict[tuple[Kind, str], tuple[float, float]] = {}
        """What was left, and when."""

    def admit(self, principal: Principal) -> None:
        """Takes a token. Raises AccessRefused 429, which takes none."""
        rate = self._per_s.get(principal.kind)
        if rate is None:
            return
        now = self._monotonic()
        who = (principal.kind, principal.name)
        room = max(1.0, rate * BURST_S)
        # Taken out and put back, so that the dictionary's order is that of use.
        left, at = self._buckets.pop(who, (room, now))
        left = min(room, left + (now - at) * rate)
        admitted = left >= 1
        self._buckets[who] = (left - 1 if admitted else left, now)
        if len(self._buckets) > BUCKETS_MAX:
            del self._buckets[next(iter(self._buckets))]
        if not admitted:
            wait_s = max(1, math.ceil((1 - left) / rate))
            raise AccessRefused(
                429, "too_many_requests", f"More than {rate:g} requests a second; slow down.", retry_after_s=wait_s
            )
