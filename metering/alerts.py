"""Thresholds: which of a limit's percentages its usage has reached, and when a telling that failed is tried again. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from metering.limits import Limit
from meterline_schemas.types import Micros

ATTEMPTS_MAX: Final = 12
"""Tries of one telling; after them it is dead, until somebody replays it."""

_WAITS_S: Final = (5, 30, 120, 300, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 28_800)
"""From one try to the next: about a day in all."""


def reached(used: Micros, limit: Limit, thresholds: Iterable[int]) -> list[int]:
    """The percentages of the limit that the usage has reached, rising. Of no limit there is no percentage.

    Exact: 80 % of 0.000001 is reached at 0.000001. A limit of nothing is reached, whatever the percentage, by any usage.
    """
    if limit.quantity is None or used <= 0:
        return []
    return sorted(threshold for threshold in thresholds if used * 100 >= limit.quantity * threshold)


def wait_s(attempts: int) -> int | None:
    """How long to wait after so many tries that failed; None: no more."""
    return None if attempts >= ATTEMPTS_MAX else _WAITS_S[attempts - 1]
