"""The loops of `serve control-plane`: each a thread beside the server. All are safe with two copies of the process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from control_plane.accounts import finishing
from control_plane.billing import loop as billing
from control_plane.credits import expiring
from control_plane.parts import Parts
from control_plane.sessions.sweeping import sweep_sessions
from control_plane.subscriptions import recovering
from control_plane.webhooks import worker as webhooks

logger = logging.getLogger(__name__)

Loop = Callable[[Parts, threading.Event], None]
"""Runs until the event is set. It outlives stores and providers that are away: `runtime.repeating` shows how."""

WEBHOOK_WORKERS: Final = 3
SESSION_SWEEPERS: Final = 3
"""A server that was away finds many sessions past their time at once."""

LOOPS: Final[dict[str, Loop]] = {
    "accounts": finishing.run,
    "billing": billing.run,
    "credit-expiry": expiring.run,
    **{f"session-sweeper-{number}": sweep_sessions for number in range(1, SESSION_SWEEPERS + 1)},
    "subscriptions": recovering.run,
    **{f"webhooks-{number}": webhooks.run for number in range(1, WEBHOOK_WORKERS + 1)},
}

STOP_SHARE: Final = 0.4
"""Of `stop_within_s`."""


@contextmanager
def running(parts: Parts) -> Iterator[None]:
    """They run while the block runs. Nothing here waits for a connection; what is away is waited for by its loop."""
    stop = threading.Event()
    threads = [threading.Thread(target=run, args=(parts, stop), name=name, daemon=True) for name, run in LOOPS.items()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(parts.settings.stop_within_s * STOP_SHARE / len(threads))
            if thread.is_alive():
                logger.warning("a loop did not end in time; what it was doing will be done again", extra={"loop": thread.name})
