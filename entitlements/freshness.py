"""`asOf`: the latest time whose whole log the counters hold.

A sample says how long the log was at a time; it is reached when every fence stands at or past its ends. Log ends only
grow, so of the samples in order the older ones are reached and the newer ones are not, and the border can be bisected.

It is kept in memory and read anew every REFRESH_S in the background, so that it costs a check nothing. That is safe:
fences never move back, so an instant that was reached once is reached for ever, and counters that are read later than
`asOf` hold at least what it says. It is older than it could be by REFRESH_S at most.

Cost: one statement over the newest NEWEST samples, which settles it while the counters are less than some seconds behind.
Further behind (an aggregator that is dead for hours, 100,000 samples unreached) it bisects over time, PROBES_MAX single-row
look-ups at most, and refreshes every BEHIND_REFRESH_S only.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from entitlements.queries import statement
from entitlements.store import Store, StoreAway

logger = logging.getLogger(__name__)

REFRESH_S = 0.1
BEHIND_REFRESH_S = 1.0
NEWEST = 16
PROBES_MAX = 64
"""Bisecting a century to a millisecond takes 42."""
GRAIN = timedelta(milliseconds=1)
"""Samples closer together than this are not told apart; the older one is as true."""

_LATEST = datetime.max.replace(tzinfo=UTC)


class Sample(NamedTuple):
    """One row, and whether the fences have reached it."""

    epoch: int
    seen_from: datetime
    seen_until: datetime
    reached: bool


class Freshness:
    """Keeps `as_of` fresh while `run` runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._samples_sql = statement("samples")
        self._oldest_sql = statement("oldest_sample")
        self.as_of: str | None = None
        """RFC 3339 with milliseconds, rounded down; None until a sample is reached."""

    async def run(self) -> None:
        """Refreshes until it is cancelled. While Postgres is away the last answer stands: it ages, and is still true."""
        while True:
            wait_s = REFRESH_S
            try:
                if await self.refresh():
                    wait_s = BEHIND_REFRESH_S
            except StoreAway:
                wait_s = BEHIND_REFRESH_S
            await asyncio.sleep(wait_s)

    async def refresh(self) -> bool:
        """Reads it anew; True when the counters were so far behind that it took a bisection. Raises StoreAway."""
        newest = await self._samples(_LATEST, NEWEST)
        reached = next((sample for sample in newest if sample.reached), None)
        far_behind = reached is None and len(newest) == NEWEST
        if far_behind:
            reached = await self._bisect(newest[-1])
        if reached is not None:
            instant = reached.seen_until.astimezone(UTC).isoformat(timespec="milliseconds")
            self.as_of = instant.removesuffix("+00:00") + "Z"
        return far_behind

    async def _samples(self, until: datetime, count: int) -> list[Sample]:
        rows = await self._store.rows("samples", self._samples_sql, {"until": until, "count": count})
        return [Sample(*row) for row in rows]

    async def _bisect(self, unreached: Sample) -> Sample | None:
        """The newest reached sample below one that is not; None when even the oldest kept one is not."""
        rows = await self._store.rows("oldest_sample", self._oldest_sql, {})
        if not rows:
            return None
        # Invariant: `low` is at or after the start of a reached sample (once `found` is set), `high` starts an unreached one.
        low, high = rows[0][0], unreached.seen_from
        found: Sample | None = None
        at = low
        for _ in range(PROBES_MAX):
            samples = await self._samples(at, 1)
            if samples and samples[0].reached:
                found, low = samples[0], at
            elif found is None:
                # The oldest is not reached: nothing is.
                return None
            else:
                high = samples[0].seen_from if samples else at
            if high - low <= GRAIN:
                break
            at = low + (high - low) / 2
        return found
