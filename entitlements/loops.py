"""The loops of `serve entitlements`: each a thread with a connection of its own, beside the event loop that answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from entitlements.relay import Relay
from entitlements.sweeping import Sweeper
from runtime import clickhouse, postgres
from runtime.settings import Settings

logger = logging.getLogger(__name__)

STOP_SHARE = 0.5
"""Of `stop_within_s`: a relay that waits for the broker's acknowledgements ends with them."""


@contextmanager
def running(settings: Settings) -> Iterator[Relay]:
    """They run while the block runs. Nothing here waits for a connection; what is away is waited for by its loop."""
    stop = threading.Event()
    relay = Relay(settings, lambda: postgres.connect(settings, autocommit=True))
    sweeper = Sweeper(lambda: postgres.connect(settings, autocommit=True), lambda: clickhouse.client(settings))
    threads = [
        threading.Thread(target=relay.run_until, args=(stop,), name="outbox-relay", daemon=True),
        threading.Thread(target=sweeper.run_until, args=(stop,), name="hold-sweeper", daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield relay
    finally:
        stop.set()
        relay.promised()
        for thread in threads:
            thread.join(settings.stop_within_s * STOP_SHARE / len(threads))
            if thread.is_alive():
                logger.warning("a loop did not end in time; what it was doing will be done again", extra={"loop": thread.name})
