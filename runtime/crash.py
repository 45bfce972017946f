"""Named points at which a test kills the process, as `kill -9` would: nothing is flushed, nothing is caught.

`METERLINE_CRASH_AT=<name>:<n>` kills at the n-th passing of the point. Unset, a point costs one comparison.
"""

from __future__ import annotations

import os
import signal

CRASH_POINTS = frozenset(
    {
        "consumer.decided",
        "consumer.inserting",
        "consumer.stored",
        "consumer.announcing",
        "consumer.announced",
        "consumer.committed",
        "aggregator.before_commit",
        "aggregator.after_commit",
        "relay.acked",
        "exporter.before_sending",
        "exporter.posted",
        "exporter.before_accepted",
        "accounts.begun",
        "accounts.customer_made",
        "accounts.customer_recorded",
        "accounts.done",
        "subscriptions.intended",
        "subscriptions.answered",
        "subscriptions.recorded",
        "webhooks.handled",
        "billing.before_commit",
        "billing.committed",
    }
)

_armed: str | None = None
_passes_left = 0


def arm(spec: str) -> None:
    """Takes `<name>:<n>` from the environment of a test. Raises ValueError for a name that no point has."""
    global _armed, _passes_left
    name, _, passes = spec.partition(":")
    if name not in CRASH_POINTS or not (passes or "1").isdigit() or int(passes or 1) < 1:
        raise ValueError(f"METERLINE_CRASH_AT={spec}: want <name>:<n> with a name of {', '.join(sorted(CRASH_POINTS))}")
    _armed, _passes_left = name, int(passes or 1)


def armed(name: str) -> bool:
    """Whether the process is to die at this point, for a place that goes another way to get there."""
    return _armed == name


def crash_point(name: str) -> None:
    """Dies here when armed for the name and the count has come."""
    global _passes_left
    if _armed != name:
        return
    _passes_left -= 1
    if _passes_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
