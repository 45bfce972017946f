"""Waiting for a dependency that is away, within a bound, and saying so."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from runtime import metrics
from runtime.exits import Exit, MeterlineExit
from runtime.life import Backoff

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Retriable(Exception):
    """The other side is away, busy, or behind; the same call may be made again."""


class Patience:
    """Repeats calls for the deciding thread while their dependency is away."""

    def __init__(self, give_up_s: float, stop: threading.Event) -> None:
        self._give_up_s, self._stop = give_up_s, stop
        self.problems: dict[str, str] = {}
        """What is wrong with a dependency now, for /ready."""

    def until_done(
        self, dependency: str, call: Callable[[], T], away: tuple[type[Exception], ...], behind: Exit = Exit.UNREACHABLE
    ) -> T:
        """The call's result. Repeats it after any of `away` or Retriable, at most `give_up_s` or until stopped.

        Raises MeterlineExit then: with `behind` where the last try was Retriable, else UNREACHABLE.
        """
        began, backoff = time.monotonic(), Backoff()
        passing: tuple[type[Exception], ...] = (Retriable, *away)
        while True:
            try:
                result = call()
            except passing as error:
                self.problems[dependency] = str(error)
                metrics.RETRIES.labels("consume", dependency).inc()
                if self._stop.is_set() or time.monotonic() - began > self._give_up_s:
                    code = behind if isinstance(error, Retriable) else Exit.UNREACHABLE
                    raise MeterlineExit(code, f"{dependency} is away or behind: {error}") from error
                logger.warning("a dependency is away; trying again", extra={"dependency": dependency, "problem": str(error)})
                self._stop.wait(backoff.wait_s())
            else:
                self.problems.pop(dependency, None)
                return result
