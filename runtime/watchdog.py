"""A process that stands still while its work waits leaves, so that its supervisor starts another.

A watchdog looks from a thread of its own, because whoever hangs cannot notice it. It says nothing while there is
nothing to do, while the process says what it is waiting for (a store that is away, an index being built), or after the
process itself was held up; an excuse is good for as long as the waiting may last, and not for ever.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from runtime.exits import Exit
from runtime.settings import Settings

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_SAY_WITHIN_S = 3.0


@dataclass(frozen=True)
class Standing:
    """Where something is, and where its work ends now; with no end it is expected to move always."""

    position: int
    end: int | None = None

    @property
    def behind(self) -> bool:
        return self.end is None or self.position < self.end


@dataclass(frozen=True)
class Seen:
    """One look: where each part stands, and what the process says that it waits for, or None."""

    standings: Mapping[str, Standing]
    excuse: str | None = None


@dataclass
class _Still:
    """Since when a part has not moved: at all, and without an excuse."""

    position: int
    since: float
    unexcused_since: float


class Watchdog:
    """Policy and state; `now` is passed in. A part has stalled when it was behind and did not move for `bound_s`.

    Time with an excuse does not count, up to `excused_s` in a row of standing still.
    """

    def __init__(self, bound_s: float, excused_s: float) -> None:
        self._bound_s, self._excused_s = bound_s, excused_s
        self._still: dict[str, _Still] = {}
        self._looked_at: float | None = None

    def look(self, seen: Seen | None, now: float) -> str | None:
        """What stalled, in words, or None. `seen` is None when nobody can say how far the log goes."""
        last, self._looked_at = self._looked_at, now
        held_up = last is not None and now - last > max(5 * LOOK_EVERY_S, self._bound_s / 2)
        if seen is None or held_up:
            self._still.clear()
            return None
        self._still = {name: still for name, still in self._still.items() if name in seen.standings}
        for name, standing in seen.standings.items():
            still = self._still.get(name)
            if still is None or not standing.behind or still.position != standing.position:
                self._still[name] = _Still(standing.position, now, now)
                continue
            if seen.excuse is not None and now - still.since <= self._excused_s:
                still.unexcused_since = now
            elif now - still.unexcused_since >= self._bound_s:
                end = "" if standing.end is None else f" while its log ends at {standing.end}"
                waits = "" if seen.excuse is None else f", waiting for {seen.excuse}"
                return f"{name} stood still at {standing.position} for {now - still.since:.0f} s{end}{waits}"
        return None


def watchdog_of(settings: Settings) -> Watchdog:
    """By the settings. The longest single call within its time limit does not count as standing still."""
    calls_s = settings.clickhouse_timeout_s + settings.postgres_timeout_s + settings.range_window_ms / 1000
    bound_s = settings.stalled_after_s + calls_s
    return Watchdog(bound_s, excused_s=settings.retry_give_up_s + bound_s)


@contextmanager
def watched(watchdog: Watchdog, look: Callable[[], Seen | None]) -> Iterator[None]:
    """Looks once a second while the block runs; leaves the process with STALLED where the watchdog says so.

    `look` runs on the watchdog's thread: it may block for its own time limit, and must raise nothing.
    """
    over = threading.Event()

    def run() -> None:
        while not over.wait(LOOK_EVERY_S):
            stalled = watchdog.look(look(), time.monotonic())
            if stalled is not None and not over.is_set():
                leave(stalled)

    threading.Thread(target=run, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def leave(why: str) -> None:
    """Ends the process with STALLED, whatever its other threads hold, and says what each of them was doing."""

    def say() -> None:
        code = f"{Exit.STALLED.value} {Exit.STALLED.name}"
        logger.critical("%s; leaving, so that another is started", why, extra={"exit": code})
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        logging.shutdown()

    # The thread that hangs may hold a lock of the log.
    saying = threading.Thread(target=say, name="last words", daemon=True)
    saying.start()
    saying.join(_SAY_WITHIN_S)
    os._exit(Exit.STALLED)
